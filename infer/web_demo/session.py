"""What the page's server remembers: loaded models, and for each browser tab one image and what is known about it.

Nothing here knows gradio. Images stay in memory, and are forgotten with their tab.
"""

from __future__ import annotations

import base64
import binascii
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from pix2seq.api import EncodedImage, Model, Result
from pix2seq.config import CFG, VOTES, replace
from pix2seq.dataset.images import Content, read_image
from pix2seq.errors import UserError, plain
from pix2seq.infer.prompts import Class
from pix2seq.infer.votes import box_iou
from pix2seq.infer.web_demo.view import Part, entries_so_far, picture_of, scene_of
from pix2seq.weights.find import at_hand

MOST_LOADED = 2  # models in memory
MOST_SIDE = 2048  # pixels of an image that is kept: larger ones are reduced
SHOWN_S = 0.1  # from what is shown of an answer to what is shown next, unless that is all of it
MOST_REMEMBERED = 16  # answers about an image
MOST_ASKED = 16  # objects that masks and keypoints are asked about at once
MOST_SAMPLES = 16
MOST_CAPTIONS = 3
MIN_SCORE = 0.05  # of an object that a click can mean although it is not shown
MIN_IOU = 0.3  # of a drawn box and an object that was found, to be of its class
AS_FOUND = "as found there"  # instead of a class: that of the object in a drawn box
# One greedy sequence of each prompt, from one view, which ends where that is likeliest, unless a user wants several.
PLAIN = dict(
    end_threshold=0.0,
    **dict.fromkeys(("views", *VOTES), 1),
    **dict.fromkeys(("detection_top_p", "keypoint_top_p", "caption_top_p"), 0.0),
)
NUCLEI = ("top_p", "detection_top_p", "keypoint_top_p", "caption_top_p")


@dataclass(frozen=True)
class Wishes:
    """What the page's controls say; raises UserError for what they cannot say."""

    weights: str
    tasks: tuple[str, ...]
    threshold: float
    nucleus: float
    samples: int

    def __post_init__(self) -> None:
        for name, low, high in (("threshold", 0, 1), ("nucleus", 0.001, 1), ("samples", 1, MOST_SAMPLES)):
            value = getattr(self, name)
            if not isinstance(value, (int, float)) or not low <= value <= high:
                raise UserError(f"{name} is a number from {low} to {high}; move its slider")

    @property
    def sampling(self) -> dict[str, float]:
        """Settings of inference: a greedy sequence, or several of the nucleus."""
        count = int(self.samples)
        if count == 1:
            return {}
        captions = {"num_captions": min(count, MOST_CAPTIONS)}
        return captions | dict.fromkeys(VOTES, count) | dict.fromkeys(NUCLEI, float(self.nucleus))


class Models:
    """Loaded models by the names that the page offers; the ones used last stay in memory."""

    def __init__(self, cfg: CFG) -> None:
        self.cfg, self.lock = replace(cfg, **PLAIN), threading.Lock()
        self.loaded: OrderedDict[str, Model] = OrderedDict()
        given = cfg.infer.weights
        self.names = {name: name for name in at_hand()}
        self.first = given if given in self.names else plain(Path(given).name)
        self.names = {self.first: given} | self.names

    def __getitem__(self, name: str) -> Model:
        """The model of a name on the page; raise UserError for other names, which are not even looked for."""
        if not isinstance(name, str) or name not in self.names:
            raise UserError(f"the page offers the weights {', '.join(self.names)}; choose one of them")
        with self.lock:
            if name not in self.loaded:
                from pix2seq.infer.load import load_predictor

                self.loaded[name] = Model(load_predictor(replace(self.cfg, weights=self.names[name])))
            self.loaded.move_to_end(name)
            while len(self.loaded) > MOST_LOADED:
                self.loaded.popitem(last=False)
            return self.loaded[name]


class Photo:
    """An image that a model is asked about: encoded once, and no question is computed twice in a row."""

    def __init__(self, model: Model, pixels: np.ndarray) -> None:
        self.model = model
        self.hear: Callable[..., None] | None = None
        speaking = model.predictor.with_generator(model.predictor.generator.with_listener(self._listen))
        self.image = EncodedImage(speaking, pixels, "", 0)
        self._remembered = lru_cache(MOST_REMEMBERED)(self._asked)

    def ask(
        self, tasks: Sequence[str], boxes: np.ndarray | None, classes: Sequence[Class], **settings: float
    ) -> Result:
        """See `EncodedImage.ask`; with tokens."""
        keys = None if boxes is None else tuple(map(tuple, boxes.tolist()))
        return self._remembered(tuple(tasks), keys, tuple(classes), tuple(sorted(settings.items())))

    def _listen(self, *told: Any) -> None:
        """Tokens were decoded; see `encoded.Listener`."""
        if self.hear is not None:
            self.hear(*told)

    def _asked(self, tasks: tuple, boxes: tuple | None, classes: tuple, settings: tuple) -> Result:
        return self.image.ask(tasks, boxes, classes, return_tokens=True, **dict(settings))

    def found(self, wishes: Wishes) -> Result | None:
        """All objects that the model lists, however unlikely; None if it was not trained to find any."""
        finder = self.model.predictor.finder
        if finder is None:
            return None
        return self.ask([finder.name], None, (), score_threshold=0.0, **wishes.sampling)

    @property
    def prompted(self) -> list[str]:
        """Names of the tasks that are about an object."""
        return [name for name, task in self.model.predictor.tasks.items() if task.is_prompted]


@dataclass
class Session:
    """A browser tab: its image (H, W, 3), the picture of it, and the box and class that a user points at."""

    pixels: np.ndarray
    picture: str
    notes: tuple[str, ...] = ()
    pointed: tuple[np.ndarray, str] | None = None
    photo: Photo | None = None

    def asked_of(self, model: Model) -> Photo:
        """The image for this model; another one's encoding and answers are forgotten."""
        if self.photo is None or self.photo.model is not model:
            self.photo = Photo(model, self.pixels)
        return self.photo

    def scene(self, wishes: Wishes, model: Model, show: Callable[[dict], None] = lambda scene: None) -> dict:
        """What the page shows: the tasks that are wanted, and what the user points at.

        `show` gets what is known of it, with `more` to come: the photo, then each answer, token by token.
        """
        shown_at = 0.0 if self.photo is None else time.monotonic()  # a new photo is shown at once
        photo, notes, parts = self.asked_of(model), list(self.notes), []
        height, width = self.pixels.shape[:2]
        known = scene_of(self.picture, width, height, parts, notes)
        spoken = {*wishes.tasks, *(photo.prompted if self.pointed else ())}
        heard: dict[str, tuple] = {}  # by task, what was told last of an answer that is not there yet

        def hear(*told: Any) -> None:
            nonlocal shown_at
            heard.update({told[0]: told} if told else {})
            if time.monotonic() < shown_at + SHOWN_S:
                return
            shown_at = time.monotonic()
            lists = (entries_so_far(model.predictor, *told) for task, told in heard.items() if task in spoken)
            show(known | {"more": True, "sentences": sum(lists, known["sentences"])})

        photo.hear = hear
        try:
            hear()
            for part in self._parts(photo, wishes, notes):
                parts.append(part)
                heard.clear()
                known = scene_of(self.picture, width, height, parts, notes)
                hear()
        finally:
            photo.hear = None
        return known

    def _parts(self, photo: Photo, wishes: Wishes, notes: list[str]) -> Iterator[Part]:
        yield from _parts(photo, wishes, notes)
        if self.pointed is not None and self.pointed[1] in photo.model.predictor.class_names.values():
            box, name = self.pointed
            result = photo.ask(photo.prompted, box[None], (name,), **wishes.sampling)
            yield Part(result, photo.prompted, pointed=True)

    def point_at(self, x: float, y: float, wishes: Wishes, model: Model) -> None:
        """Point at the smallest object there that is shown, else at the likeliest other one; raise UserError if there
        is none."""
        require_numbers(x, y)
        found = self.asked_of(model).found(wishes)
        if found is not None:
            x1, y1, x2, y2 = found.boxes.T
            here = (x1 <= x) & (x <= x2) & (y1 <= y) & (y <= y2)
            area = (x2 - x1) * (y2 - y1)
            shown = here & (found.scores >= wishes.threshold)
            for candidates, cost in ((shown, area), (here & (found.scores >= MIN_SCORE), -found.scores)):
                if candidates.any():
                    index = np.flatnonzero(candidates)[np.argmin(cost[candidates])]
                    self.pointed = found.boxes[index], found.class_names[index]
                    return
        raise UserError("no object was found at this point; drag a box around one")

    def point_with(self, box: Sequence[float], class_name: str, wishes: Wishes, model: Model) -> None:
        """Point at what is in a box x1 y1 x2 y2; its class is that of the object found there unless it is named."""
        require_numbers(*box)
        x1, y1, x2, y2 = box
        height, width = self.pixels.shape[:2]
        corners = np.clip([min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)], 0, [width, height, width, height])
        if (corners[2:] - corners[:2] < 1).any():
            raise UserError("a box needs a width and a height; drag from one corner to the other")
        self.pointed = corners, self._class_in(corners, class_name, wishes, model)

    def _class_in(self, box: np.ndarray, class_name: str, wishes: Wishes, model: Model) -> str:
        names = list(model.predictor.class_names.values())
        if class_name != AS_FOUND:
            if class_name not in names:
                raise UserError("the model has no class of that name; choose one from the list")
            return class_name
        found = self.asked_of(model).found(wishes)
        if found is not None and len(found.boxes):
            overlap = box_iou(box[None], found.boxes)[0] * (found.scores >= MIN_SCORE)
            if overlap.max() >= MIN_IOU:
                return found.class_names[overlap.argmax()]
        usual = model.predictor.settings.box_class
        return usual if usual in names else names[0]


class Sessions:
    """The last `most` browser tabs by their keys."""

    def __init__(self, most: int) -> None:
        self.most, self.lock = most, threading.Lock()
        self.by_key: OrderedDict[str, Session] = OrderedDict()

    def __len__(self) -> int:
        return len(self.by_key)

    def __contains__(self, key: str) -> bool:
        return key in self.by_key

    def __getitem__(self, key: str) -> Session:
        """Raise UserError if there is none, or none any more."""
        with self.lock:
            if key not in self.by_key:
                raise UserError("there is no image yet, or it is no longer kept here; load one")
            self.by_key.move_to_end(key)
            return self.by_key[key]

    def __setitem__(self, key: str, session: Session) -> None:
        with self.lock:
            self.by_key[key] = session
            self.by_key.move_to_end(key)
            while len(self.by_key) > self.most:
                self.by_key.popitem(last=False)

    def forget(self, key: str) -> None:
        """A tab was closed."""
        with self.lock:
            self.by_key.pop(key, None)


def open_image(name: str, data: str, max_megabytes: float, max_megapixels: float) -> Session:
    """A session about an image file whose bytes a browser sent in base64; raise UserError if it cannot be used."""
    name = (plain(name) if isinstance(name, str) else "") or "the image"
    if not isinstance(data, str) or len(data) * 3 / 4 > max_megabytes * 1e6 + 3:
        raise UserError(f"{name} has more than {max_megabytes:g} MB; make it smaller")
    try:
        content = base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise UserError(f"{name} did not arrive whole; load it again") from None
    pixels = read_image(Content(name, content), max_megapixels)
    height, width = pixels.shape[:2]
    factor = min(1.0, MOST_SIDE / max(height, width))
    if factor == 1:
        return Session(pixels, picture_of(pixels))
    size = (max(round(width * factor), 1), max(round(height * factor), 1))
    pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_AREA)
    note = f"reduced from {width} × {height} to {size[0]} × {size[1]} pixels"
    return Session(pixels, picture_of(pixels), (note,))


def require_numbers(*values: float) -> None:
    """Raise UserError unless all are finite numbers."""
    if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in values):
        raise UserError("a place is expected as numbers of pixels")


def _parts(photo: Photo, wishes: Wishes, notes: list[str]) -> Iterator[Part]:
    """The answers to the tasks that are wanted, one by one; `notes` gets a line about objects that are left out."""
    tasks = photo.model.predictor.tasks
    wanted = [name for name in tasks if name in wishes.tasks]
    about_objects = [name for name in wanted if tasks[name].about_objects]
    prompted = [name for name in wanted if tasks[name].is_prompted]
    found = photo.found(wishes) if about_objects else None
    if found is not None:
        count = int((found.scores >= wishes.threshold).sum())
        yield Part(found, wanted, count)
        if prompted and count:
            asked = min(count, MOST_ASKED)
            if asked < count:
                notes.append(f"{' and '.join(prompted)} of the {asked} likeliest of {count} objects")
            result = photo.ask(prompted, found.boxes[:asked], found.classes[:asked].tolist(), **wishes.sampling)
            yield Part(result, prompted)
    of_image = [name for name in wanted if not tasks[name].about_objects]
    if of_image:
        yield Part(photo.ask(of_image, None, (), **wishes.sampling), of_image, 0)
