"""An example as it lies on a canvas: what the task files make sequences from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pix2seq.config import DataCFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.geometry import UNIT, Geometry, visible_share
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.dataset.transforms import jitter_box
from pix2seq.tokenizers.vocabulary import prompted_box

OTHER_CLASS = 1e6  # distance, in pixels, of an object of another class


@dataclass(frozen=True)
class CanvasObjects:
    """Objects on a canvas, y before x in canvas fractions: `boxes` (M, 4), `classes` (M,), `points` (M, P, 2),
    `visible` (M, P). `unlabeled` (U,) are ids of classes that may be there too."""

    boxes: np.ndarray
    classes: np.ndarray
    points: np.ndarray
    visible: np.ndarray
    unlabeled: np.ndarray


@dataclass(frozen=True)
class View:
    """`example` on the canvas of `geometry`, mirrored if `flipped`; `augment`: it is a training sample.

    Sequences are about all of the canvas, or about the object number `instance` alone.
    """

    example: Example
    geometry: Geometry
    flipped: bool = False
    augment: bool = False
    instance: int | None = None

    def prompt_box(self, data: DataCFG, rng: np.random.Generator) -> np.ndarray:
        """The box (4,) y1 x1 y2 x2 in canvas fractions that points at the instance; in training not quite the true
        one."""
        box = object_boxes(self.example, self.geometry)[self.instance]
        return np.clip(jitter_box(box, data.box_jitter, rng) if self.augment else box, 0, 1)

    def objects(self) -> CanvasObjects:
        """All objects of the example as they lie on the canvas."""
        example, skeleton = self.example, self.example.skeleton
        points, visible = keypoints_on_canvas(example.keypoints, self.geometry, self.flipped, skeleton)
        boxes = np.clip(object_boxes(example, self.geometry), 0, 1).astype(np.float32)
        unlabeled = np.array(example.unlabeled.classes, dtype=np.int64)
        return CanvasObjects(boxes, example.classes, points.astype(np.float32), visible.astype(np.float32), unlabeled)


def object_boxes(example: Example, geometry: Geometry) -> np.ndarray:
    """The objects' boxes (n, 4) y1 x1 y2 x2 in canvas fractions, not clipped.

    On a turned canvas an object with polygons has their box, another what Geometry makes of its box. Keypoints are no
    help: they leave out the top of the head, hands and feet.
    """
    boxes = geometry.box_fractions(example.boxes)
    if geometry.is_turned:
        for box, polygons in zip(boxes, example.polygons, strict=True):
            if polygons:
                points = geometry.to_fractions(np.concatenate(polygons))
                box[:] = *points.min(axis=0), *points.max(axis=0)
    return boxes


def is_shown(boxes: np.ndarray, min_visible: float, frame: Sequence[float] = UNIT) -> np.ndarray:
    """Which boxes (n, 4) have at least this share, and some part, in `frame` (4,): the canvas in canvas fractions."""
    share = visible_share(boxes, frame)
    return (share > 0) & (share >= min_visible)


def keypoints_on_canvas(
    keypoints: np.ndarray, geometry: Geometry, flipped: bool, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (…, P, 3) x y v of an image as points (…, P, 2) y x in canvas fractions, and which are visible (…, P).

    Left and right points of the `skeleton` swap names if the canvas is mirrored (`flipped`); points off the canvas are
    invisible.
    """
    if flipped:
        keypoints = keypoints[..., list(skeleton.flip), :]
    places = keypoints[..., :2]
    return geometry.to_fractions(places), (keypoints[..., 2] > 0) & geometry.shows(places)


def prompted_object(example: Example, geometry: Geometry, prompt: np.ndarray, labeled: np.ndarray) -> int:
    """The object that an instance's `prompt` (6,) about a canvas means: of two with the same
    box, a `labeled` (n,) one."""
    fractions, class_id = prompted_box(prompt)
    distance = np.abs(example.boxes - geometry.boxes_from_fractions(fractions)[0]).sum(axis=1)
    distance += OTHER_CLASS * (example.classes != class_id)
    return int(np.lexsort((~labeled, distance.round()))[0])
