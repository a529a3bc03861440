"""The front door: a model that is called with images and returns results in the images' pixels."""

from __future__ import annotations

import contextlib
import dataclasses
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pix2seq.config import CALIBRATION, CFG, DECODING, FIELDS, SHAPING, InferCFG, in_python, replace
from pix2seq.dataset.images import upright_rgb
from pix2seq.dataset.masks import decode_mask
from pix2seq.errors import UserError
from pix2seq.infer.foreign import to_detections, to_key_points
from pix2seq.infer.image_names import Named, find_images, image_ids, is_one, read_named
from pix2seq.infer.load import load_predictor
from pix2seq.infer.output import write_result
from pix2seq.infer.pipeline import Failed, Job, Loaded, process
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.prompts import Class, pointed_at
from pix2seq.infer.results import Instances
from pix2seq.infer.results import Result as Described
from pix2seq.infer.sentences import Sentence, sentences_of
from pix2seq.infer.views import Views
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import move_contents, output_folder, writing
from pix2seq.runtime.threads import let_threads_sleep

if TYPE_CHECKING:
    import supervision

ImageLike = str | Path | Image.Image | np.ndarray
Boxes = np.ndarray | Sequence[Sequence[float]]  # (n, 4) x1 y1 x2 y2 in pixels
Classes = Class | Sequence[Class]  # one name or id for all boxes, or one for each
NO_LIST = (Image.Image, bytes, bytearray, memoryview, io.IOBase, Mapping)  # have parts, which are no images
# Settings of a question; views are those that a model is loaded for.
CAN_DIFFER = {*DECODING, "num_captions"} - {"views"}


@contextlib.contextmanager
def naming_arguments() -> Iterator[None]:
    """Errors of the block name arguments of Python where they would name flags."""
    try:
        yield
    except UserError as error:
        error.args = (in_python(str(error)),)
        raise


@dataclass(frozen=True)
class Result:
    """What a model predicts about one image of H × W pixels; n instances, highest score first.

    What was not requested is None. Pixel i of the image covers [i, i + 1).
    """

    image: np.ndarray  # (H, W, 3) uint8 RGB
    described: Described
    predictor: Predictor
    name: str = ""  # the path or the address; empty: it came as pixels
    image_id: int | str = 0  # in COCO's format: the number that the file is named after, or its name without ending

    @property
    def boxes(self) -> np.ndarray:
        """(n, 4) x1 y1 x2 y2 in pixels."""
        return self.described.instances.boxes

    @property
    def scores(self) -> np.ndarray:
        """(n,) from 0 to 1."""
        return self.described.instances.scores

    @property
    def classes(self) -> np.ndarray:
        """(n,) class ids of the model."""
        return self.described.instances.classes

    @property
    def class_names(self) -> list[str]:
        """n names."""
        return [self.predictor.class_names[number] for number in self.classes.tolist()]

    @cached_property
    def masks(self) -> np.ndarray | None:
        """(n, H, W) bool."""
        masks = self.described.predictions.get("segmentation")
        if masks is None:
            return None
        return np.array([self.mask(index) for index in range(len(masks))]).reshape(-1, *self.image.shape[:2])

    def mask(self, index: int) -> np.ndarray:
        """(H, W) bool: one of `masks`, which need not all be in memory."""
        return decode_mask(self.described.predictions["segmentation"][index].rle)

    @cached_property
    def keypoints(self) -> np.ndarray | None:
        """(n, P, 3) x y v: v is 2 where visible, 0 where not; all 0 for an instance that has no keypoints."""
        poses = self.described.predictions.get("keypoint")
        if poses is None:
            return None
        none = np.zeros((len(self.predictor.skeleton), 3))
        points = [none if pose is None else pose.keypoints for pose in poses]
        return np.array(points, dtype=np.float64).reshape(-1, *none.shape)

    @property
    def keypoint_names(self) -> tuple[str, ...]:
        """P names."""
        return self.predictor.skeleton.names

    @property
    def caption(self) -> str | None:
        """The sentence, of several the most typical one."""
        return None if self.captions is None else self.captions[0]

    @property
    def captions(self) -> tuple[str, ...] | None:
        """All sentences, the most typical one first."""
        captions = self.described.predictions.get("captioning")
        return None if captions is None else captions.texts

    @cached_property
    def tokens(self) -> list[Sentence] | None:
        """With `return_tokens`, every sequence that was decoded, in the order of tasks, prompts and samples. Where
        samples vote on a prediction, all of them are here."""
        return sentences_of(self.described, self.predictor) if self.described.answers else None

    def to_coco(self, image_id: int | str | None = None) -> list[dict]:
        """In COCO's results format, with the category ids of the dataset that the model was trained on."""
        return self.predictor.to_coco(self.image_id if image_id is None else image_id, self.described)

    def to_supervision(self) -> supervision.Detections:
        """The instances for the package supervision."""
        return to_detections(self)

    def to_supervision_keypoints(self) -> supervision.KeyPoints:
        """The keypoints for the package supervision, of the instances that have some."""
        return to_key_points(self)

    def plot(self) -> np.ndarray:
        """The image (H, W, 3) uint8 RGB with all that was predicted drawn into it."""
        return self.predictor.draw(self.image, self.described)

    def save(self, folder: str | Path) -> list[Path]:
        """Write what the scripts write, `result.json` and a PNG for each task, all or none; return where they are."""
        target = Path(folder)
        with output_folder(target, "the folder") as staging, writing(target, "the folder"):
            files = write_result(staging, target, self.to_coco(), self.image, self.described, self.predictor)
            move_contents(staging, target)
        return files


class EncodedImage:
    """One image, of which tasks are asked one after the other: it is encoded when that is first needed, and
    again only for tasks that use more views than all before them.

    Masks and keypoints read a crop around each box, which is encoded for each call. With `return_tokens` results hold
    the sequences too.
    """

    def __init__(self, predictor: Predictor, pixels: np.ndarray, name: str, image_id: int | str) -> None:
        self.predictor, self.pixels, self.name, self.image_id = predictor, pixels, name, image_id
        self._whole: Views | None = None

    def _encoded(self, predictor: Predictor, names: Sequence[str]) -> Views:
        """The whole image in as many views as the tasks use, or more."""
        if self._whole is None or self._whole.count < predictor.views_of(names):
            self._whole = predictor.encode_images([self.pixels], names)
        return self._whole

    def detect(self, return_tokens: bool = False) -> Result:
        """The objects."""
        return self._ask(["detection"], None, return_tokens)

    def segment(self, boxes: Boxes, classes: Classes = "person", return_tokens: bool = False) -> Result:
        """A mask for each of `boxes` (n, 4) x1 y1 x2 y2 in pixels; `classes` is one name or id for all or one for
        each."""
        return self._ask(["segmentation"], self._pointed_at(boxes, classes), return_tokens)

    def keypoints(self, boxes: Boxes, classes: Classes = "person", return_tokens: bool = False) -> Result:
        """Keypoints for each of `boxes`, as `segment` takes them; raises UserError for classes without keypoints."""
        instances = self._pointed_at(boxes, classes, self.predictor.skeleton.class_ids)
        return self._ask(["keypoint"], instances, return_tokens)

    def caption(self, num_captions: int = 1, return_tokens: bool = False) -> Result:
        """A caption, or several that are sampled."""
        return self._ask(["captioning"], None, return_tokens, num_captions=num_captions)

    def ask(
        self,
        tasks: Sequence[str],
        boxes: Boxes | None = None,
        classes: Classes = "person",
        return_tokens: bool = False,
        **settings: Any,
    ) -> Result:
        """The named tasks, with other `settings` of inference for this time, by name.

        Masks and keypoints are those of `boxes`, as `segment` takes them, or of the objects found if there are none; an
        object without keypoints has none.
        """
        instances = None if boxes is None else self._pointed_at(boxes, classes)
        return self._ask(list(tasks), instances, return_tokens, **settings)

    def _pointed_at(self, boxes: Boxes, classes: Classes, allowed: Sequence[int] | None = None) -> Instances:
        height, width = self.pixels.shape[:2]
        return pointed_at(boxes, classes, self.predictor.class_names, width, height, allowed)

    @naming_arguments()
    def _ask(self, names: list[str], instances: Instances | None, return_tokens: bool, **settings: Any) -> Result:
        self.predictor.require(names)
        predictor = self.predictor.with_answers() if return_tokens else self.predictor
        predictor = predictor.with_settings(**_in_question(settings, predictor.settings))
        tasks = [predictor.tasks[name] for name in names]
        seen = [task.name for task in tasks if not task.is_cropped(predictor.trained.model)]
        if instances is None and any(task.about_objects for task in tasks):
            seen.append(predictor.finder.name)
        whole = self._encoded(predictor, seen) if seen else None
        found = predictor.describe_images([self.pixels], names, None if instances is None else [instances], whole)
        return Result(self.pixels, found[0], predictor, self.name, self.image_id)


class Model:
    """A loaded model. Call it with an image, or with many; or set one and ask about it."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor
        self.current: EncodedImage | None = None

    @classmethod
    @naming_arguments()
    def load(cls, weights: str | Path = "photos", device: str = "auto", **settings: Any) -> Model:
        """See `pix2seq.load`."""
        let_threads_sleep()
        _require_known(
            settings, {field.name for field in dataclasses.fields(InferCFG)} | {"seed", "precision", "compile"}
        )
        return cls(load_predictor(replace(CFG(device=device), weights=str(weights), **settings)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model was trained for."""
        return tuple(self.predictor.tasks)

    def __call__(
        self,
        images: ImageLike | Sequence[ImageLike],
        tasks: str | Sequence[str] | None = None,
        return_tokens: bool = False,
    ) -> Result | list[Result]:
        """The named tasks, all that the model knows if None. Masks and keypoints are those of the objects found.

        An image is a path, an https:// or http:// address, a PIL image, or an RGB array (H, W, 3) uint8. One has one
        result; a list, a folder or a pattern such as "photos/*.jpg" has a list of them, in order. Raises UserError for
        the first image that cannot be used. `return_tokens` has results hold the sequences that were decoded.
        """
        results = self.stream(images, tasks, return_tokens)
        return next(results) if _is_single(images) else list(results)

    def stream(
        self,
        images: ImageLike | Sequence[ImageLike],
        tasks: str | Sequence[str] | None = None,
        return_tokens: bool = False,
    ) -> Iterator[Result]:
        """Like a call, but results come one after the other, so that a whole folder needs little memory."""
        with naming_arguments():
            names = [tasks] if isinstance(tasks, str) else list(self.tasks if tasks is None else tasks)
            self.predictor.require(names)
            predictor = self.predictor.with_answers() if return_tokens else self.predictor
            jobs = [_job(image) for image in _listed(images)]
            for item in process(predictor, names, jobs, self._load, lambda item: item):
                if isinstance(item, Failed):
                    raise UserError(item.why)
                loaded, described = item
                yield Result(loaded.pixels, described, predictor, loaded.job.file_name, loaded.job.image_id)

    @naming_arguments()
    def set_image(self, image: ImageLike) -> EncodedImage:
        """The image that `detect`, `segment`, `keypoints` and `caption` are about from now on.

        It is returned too, and has the same methods: with several images, or threads, use what is returned.
        """
        if not _is_single(image):
            raise UserError("set_image expects a single image; call the model with several")
        (listed,) = _listed(image)
        job = _job(listed)
        self.current = EncodedImage(self.predictor, self._pixels(job), job.file_name, job.image_id)
        return self.current

    def detect(self, return_tokens: bool = False) -> Result:
        """See `EncodedImage.detect`."""
        return self._current().detect(return_tokens)

    def segment(self, boxes: Boxes, classes: Classes = "person", return_tokens: bool = False) -> Result:
        """See `EncodedImage.segment`."""
        return self._current().segment(boxes, classes, return_tokens)

    def keypoints(self, boxes: Boxes, classes: Classes = "person", return_tokens: bool = False) -> Result:
        """See `EncodedImage.keypoints`."""
        return self._current().keypoints(boxes, classes, return_tokens)

    def caption(self, num_captions: int = 1, return_tokens: bool = False) -> Result:
        """See `EncodedImage.caption`."""
        return self._current().caption(num_captions, return_tokens)

    def _current(self) -> EncodedImage:
        if self.current is None:
            raise UserError("there is no image to ask about; call set_image first")
        return self.current

    def _load(self, job: Job) -> Loaded | Failed:
        try:
            return Loaded(job, self._pixels(job))
        except UserError as error:
            return Failed(job, str(error))

    def _pixels(self, job: Job) -> np.ndarray:
        """Pixels (H, W, 3) of an image."""
        if isinstance(job.image, Given):
            return to_pixels(job.image.image)
        return read_named(job.image, self.predictor.settings)


@dataclass(frozen=True)
class Given:
    """An image that came without a name."""

    image: Any

    def __str__(self) -> str:
        return "an image"


def _job(image: Named | Given) -> Job:
    return Job(image, "", "", 0) if isinstance(image, Given) else Job(image, str(image), "", image_ids([image])[0])


def _require_known(settings: Mapping[str, Any], known: Iterable[str]) -> None:
    """Raise UserError for settings that are none of those `known`."""
    if strange := sorted(settings.keys() - set(known)):
        raise UserError(f"there is no setting {strange[0]!r} here; expected one of {', '.join(sorted(known))}")


def _in_question(settings: dict[str, Any], own: InferCFG) -> dict[str, Any]:
    """Checked settings of one question. Where they change what scores depend on, the calibration of the model's `own`
    settings is left out."""
    _require_known(settings, CAN_DIFFER)
    replace(CFG(), **settings)  # raises UserError for values out of range
    none = {name: FIELDS[name].default for name in CALIBRATION}
    is_calibrated = any(getattr(own, name) != value for name, value in none.items())
    is_other = any(settings[name] != getattr(own, name) for name in SHAPING & settings.keys())
    if not (is_calibrated and is_other) or not settings.keys().isdisjoint(CALIBRATION):
        return settings
    tell("scores are not calibrated here: the model was calibrated with other settings of detection")
    return settings | none


def _is_single(images: Any) -> bool:
    """Whether one image was given, or what is none, rather than several."""
    if isinstance(images, (str, Path)):
        return is_one(str(images))
    return not isinstance(images, Iterable) or isinstance(images, NO_LIST) or getattr(images, "ndim", 1) != 1


def _listed(images: Any) -> list[Named | Given]:
    """One by one what was given."""
    if isinstance(images, (str, Path)):
        return find_images([str(images)])
    if _is_single(images):
        return [Given(images)]
    return [one for image in images for one in _listed(image)]


def to_pixels(image: Image.Image | np.ndarray) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB; raise UserError if they cannot be had."""
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if isinstance(image, np.ndarray) and image.shape[2:] == (3,) and image.dtype == np.uint8 and image.size:
        return image
    kind = f"an array {image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UserError(
        f"an image is a path, a PIL image or an RGB array (H, W, 3) of uint8, got {kind}; Image.open and "
        "Image.fromarray of PIL make images of files and of gray or RGBA arrays"
    )
