"""What the page shows, as plain values for JSON: objects with their outlines, and sentences token by token.

All places are in pixels of the image that the model was asked about. Tokens are known by their roles alone, so that a
task that is added is shown too.
"""

from __future__ import annotations

import base64
import zlib
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import cv2
import numpy as np

from pix2seq.api import Result
from pix2seq.infer.encoded import Encoded
from pix2seq.infer.overlay import SIDE_COLORS, class_color
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.responses import Response
from pix2seq.infer.sentences import Sentence, Token, sentence_of

CORNERS = ("x1", "y1", "x2", "y2")
# The color that a role has on the page; a role that is not here has that of "other".
KINDS = {
    **dict.fromkeys(("y1", "y2", "y"), "y"),
    **dict.fromkeys(("x1", "x2", "x"), "x"),
    **{role: role for role in ("task", "class", "word", "separator", "invisible", "end")},
}
PICTURE_PX, QUALITY = 1600, 85  # longer side and JPEG quality of the picture that is sent to the browser
OUTLINE_PX = 0.75  # how far an outline may be from the mask's edge


@dataclass(frozen=True)
class Part:
    """An answer of the model, and which of its `tasks` are shown token by token.

    Of the objects in `result` the page shows the first `count`; all if None. `pointed` ones are those that a user
    pointed at.
    """

    result: Result
    tasks: Sequence[str]
    count: int | None = None
    pointed: bool = False


def picture_of(pixels: np.ndarray) -> str:
    """A data: address of an image (H, W, 3) uint8 RGB, as a JPEG for the screen."""
    factor = min(1.0, PICTURE_PX / max(pixels.shape[:2]))
    if factor < 1:
        pixels = cv2.resize(pixels, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
    _, data = cv2.imencode(".jpg", pixels[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    return "data:image/jpeg;base64," + base64.b64encode(data).decode("ascii")


def scene_of(picture: str, width: int, height: int, parts: Sequence[Part], notes: Sequence[str] = ()) -> dict[str, Any]:
    """All that the page shows about an image of `width` × `height` pixels, whose `picture` is a data: address."""
    objects: list[dict] = []
    sentences: list[dict] = []
    captions: list[str] = []
    for part in parts:
        first = len(objects) if part.pointed else 0
        _add_objects(objects, part, first)
        sentences += _sentences(part, objects, first)
        captions += part.result.captions or ()
    return {
        "picture": picture,
        "width": width,
        "height": height,
        "objects": objects,
        "sentences": sentences,
        "captions": captions,
        "notes": list(notes),
    }


def _add_objects(objects: list[dict], part: Part, first: int) -> None:
    """Append the part's objects, or add what it knows to those that are there from number `first` on."""
    result = part.result
    count = len(result.boxes) if part.count is None else part.count
    has_masks = "segmentation" in result.described.predictions
    for number in range(count):
        if first + number == len(objects):
            objects.append(_object(result, number, part.pointed, objects))
        entry = objects[first + number]
        if has_masks:
            entry["outlines"] = outlines_of(result.mask(number))
        if result.keypoints is not None:
            entry |= pose_of(result, number)


def _object(result: Result, number: int, pointed: bool, earlier: Sequence[dict]) -> dict[str, Any]:
    class_id = int(result.classes[number])
    name = str(result.class_names[number])
    same = sum(entry["name"] == name and entry["pointed"] == pointed for entry in earlier)
    return {
        "box": _rounded(result.boxes[number]),
        "name": name,
        "label": f"{name} {same + 1}" if not pointed else f"this {name}",
        "score": None if pointed else round(float(result.scores[number]), 3),
        "color": _css(class_color(class_id)),
        "pointed": pointed,
    }


def outlines_of(mask: np.ndarray) -> list[list[list[float]]]:
    """Polygons [[x, y], …] around the parts of a mask (H, W) bool, and around holes in them."""
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    simple = (cv2.approxPolyDP(contour, OUTLINE_PX, True)[:, 0] + 0.5 for contour in contours)  # centers of pixels
    return [polygon.tolist() for polygon in simple if len(polygon) > 2]


def pose_of(result: Result, number: int) -> dict[str, Any]:
    """The visible `points` [x, y, color, name] of an object, and `bones` [x, y, x, y, color] between them."""
    skeleton, points = result.predictor.skeleton, result.keypoints[number]
    visible = [index for index in range(len(points)) if points[index, 2] > 0]
    sides = [skeleton.side(point) for point in range(len(skeleton))]
    bones = [
        [
            *_rounded(points[one, :2]),
            *_rounded(points[other, :2]),
            _css(SIDE_COLORS[sides[one] if sides[one] == sides[other] else "middle"]),
        ]
        for one, other in skeleton.bones
        if one in visible and other in visible
    ]
    named = [[*_rounded(points[one, :2]), _css(SIDE_COLORS[sides[one]]), skeleton.names[one]] for one in visible]
    return {"points": named, "bones": bones}


def _sentences(part: Part, objects: Sequence[dict], first: int) -> Iterator[dict[str, Any]]:
    """Each prompt of the part's tasks with its samples."""
    result = part.result
    shown = [sentence for sentence in result.tokens or () if sentence.task in part.tasks]
    for (_, instance), samples in groupby(shown, key=lambda sentence: (sentence.task, sentence.instance)):
        samples = list(samples)
        about = None if instance is None else first + instance
        yield sentence_entry(samples, result.predictor, about, "" if about is None else objects[about]["label"])


def sentence_entry(
    samples: Sequence[Sentence], predictor: Predictor, about: int | None = None, label: str = ""
) -> dict[str, Any]:
    """A prompt with its samples; `about` is the number of the object that it points at, which is labeled so. `key` is
    the same for the same prompt, `id` for the same tokens: what was shown once need not be spoken again."""
    first = samples[0]
    names = predictor.skeleton.names if predictor.tasks[first.task].needs_skeleton else ()
    return {
        "task": first.task,
        "object": about,
        "about": label,
        "prompt": chips_of(first.prompt),
        "samples": [chips_of(sample.response, names) for sample in samples],
        "key": _identity(first.prompt),
        "id": _identity([token for sample in samples for token in (*sample.prompt, *sample.response)]),
    }


def entries_so_far(
    predictor: Predictor,
    task: str,
    encoded: Encoded,
    prompts: Sequence[np.ndarray],
    num_samples: int,
    responses: Sequence[Response],
) -> list[dict[str, Any]]:
    """The prompts that are being answered, as a generator tells its listener of them."""
    entries = []
    for number in range(len(responses) // num_samples):
        place = encoded.geometry(number)
        own = enumerate(responses[number * num_samples : (number + 1) * num_samples])
        samples = [sentence_of(task, None, k, prompts[number], response, place, predictor) for k, response in own]
        entries.append(sentence_entry(samples, predictor))
    return entries


def chips_of(tokens: Sequence[Token], point_names: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Tokens as the page shows them: `text`, `role`, `kind` (its color), probability `p`, `item`, and where they lie.

    With `point_names` each pair of tokens is the point of that name.
    """
    chips = []
    for number, (token, place) in enumerate(zip(tokens, places_of(tokens), strict=True)):
        text = token.text.strip() if token.value is None else f"{token.value:.0f}"
        chip = {"text": text or token.role, "role": token.role, "kind": KINDS.get(token.role, "other")}
        chip |= {"p": round(token.probability, 4), "item": token.item} | place
        if number // 2 < len(point_names) and token.role != "end":
            chip["name"] = point_names[number // 2]
        chips.append(chip)
    return chips


def places_of(tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Where each token lies: `x` or `y` of a coordinate, the `box` [x1, y1, x2, y2] that it is part of, or its
    `point` [x, y]; nothing of a token that has no place."""
    corners: dict[int, dict[str, float]] = defaultdict(dict)
    for token in tokens:
        if token.role in CORNERS and token.value is not None:
            corners[token.item][token.role] = round(token.value, 1)
    places: list[dict[str, Any]] = []
    for number, token in enumerate(tokens):
        place: dict[str, Any] = {}
        if token.value is not None:
            place[token.role[0]] = round(token.value, 1)
        if token.role in (*CORNERS, "class") and len(corners[token.item]) == len(CORNERS):
            place["box"] = [corners[token.item][corner] for corner in CORNERS]
        if token.role == "x" and number and tokens[number - 1].role == "y":
            place["point"] = places[-1]["point"] = [place["x"], places[-1]["y"]]
        places.append(place)
    return places


def _identity(tokens: Sequence[Token]) -> int:
    return zlib.crc32(np.array([token.id for token in tokens], dtype=np.int64).tobytes())


def _rounded(values: np.ndarray) -> list[float]:
    return [round(float(value), 1) for value in values]


def _css(color: Sequence[int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*color)
