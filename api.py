"""The front door: a model that is called with an image and returns a result in the image's pixels."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from pix2seq.config import CFG, replace
from pix2seq.dataset.images import read_image, upright_rgb
from pix2seq.dataset.masks import decode_mask
from pix2seq.errors import UserError
from pix2seq.infer.load import load_predictor
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.results import Result as Described
from pix2seq.infer.results import coco_results
from pix2seq.runtime.threads import let_threads_sleep

ImageLike = str | Path | Image.Image | np.ndarray


@dataclass(frozen=True)
class Result:
    """What a model predicts about one image of H × W pixels; n instances, highest score first.

    What was not requested is None. Pixel i of the image covers [i, i + 1).
    """

    image: np.ndarray  # (H, W, 3) uint8 RGB
    described: Described
    predictor: Predictor

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
        return np.array([decode_mask(mask.rle) for mask in masks], dtype=bool).reshape(-1, *self.image.shape[:2])

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
    def caption(self) -> str | None:
        """The sentence."""
        return self.described.predictions.get("captioning")

    def to_coco(self, image_id: int | str = 0) -> list[dict]:
        """In COCO's results format, with the category ids of the dataset that the model was trained on."""
        return coco_results(image_id, self.described, self.predictor.tasks, self.predictor.category_ids)

    def plot(self) -> np.ndarray:
        """The image (H, W, 3) uint8 RGB with all that was predicted drawn into it."""
        drawn = self.image
        for name, predictions in self.described.predictions.items():
            inference = self.predictor.tasks[name].inference
            if inference.IMAGE_FILE:
                drawn = inference.draw(drawn, self.described.instances, predictions, self.predictor.drawing)
        return drawn


class Model:
    """A loaded model. Call it with an image."""

    def __init__(self, predictor: Predictor) -> None:
        self.predictor = predictor

    @classmethod
    def load(cls, weights: str = "photos", device: str = "auto", **settings: Any) -> Model:
        """See `pix2seq.load`."""
        let_threads_sleep()
        known = {field.name for field in dataclasses.fields(CFG().infer)} | {"seed", "precision", "compile"}
        if strange := sorted(settings.keys() - known):
            raise UserError(
                f"there is no setting {strange[0]!r} of inference; expected one of {', '.join(sorted(known))}"
            )
        return cls(load_predictor(replace(CFG(device=device), weights=str(weights), **settings)))

    @property
    def tasks(self) -> tuple[str, ...]:
        """Names of the tasks that the model was trained for."""
        return tuple(self.predictor.tasks)

    def __call__(self, image: ImageLike, tasks: str | Sequence[str] | None = None) -> Result:
        """The named tasks, all that the model knows if None, on one image: a path, a PIL image, or an RGB array
        (H, W, 3) uint8. Masks and keypoints are those of the objects that are found."""
        names = [tasks] if isinstance(tasks, str) else list(tasks or self.tasks)
        self.predictor.require(names)
        pixels = to_pixels(image)
        return Result(pixels, self.predictor.describe(pixels, names), self.predictor)


def to_pixels(image: ImageLike) -> np.ndarray:
    """Pixels (H, W, 3) uint8 RGB; raise UserError if they cannot be had."""
    if isinstance(image, (str, Path)):
        return read_image(Path(image))
    if isinstance(image, Image.Image):
        return upright_rgb(image)
    if isinstance(image, np.ndarray) and image.shape[2:] == (3,) and image.dtype == np.uint8 and image.size:
        return image
    kind = f"an array {image.shape} of {image.dtype}" if isinstance(image, np.ndarray) else type(image).__name__
    raise UserError(f"an image is a path, a PIL image or an RGB array (H, W, 3) of uint8, got {kind}")
