"""Mosaic augmentation: four images on the quarters of one canvas (Bochkovskiy et al., YOLOv4, arXiv 2004.10934)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pix2seq.config import DataCFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.combining import combine, moved
from pix2seq.dataset.geometry import Geometry, blank, clip_polygon
from pix2seq.dataset.views import is_shown

IMAGES = 4
CENTER = (0.25, 0.75)  # range of the point where the four images meet, fractions of the canvas's sides
SHRINK = 0.5  # smallest scale of an image, times the smallest one of an image that has the canvas for itself


def mosaic(
    examples: Sequence[Example],
    size: int,
    data: DataCFG,
    pad_value: float,
    rng: np.random.Generator,
    pixels: str = "uint8",
) -> Example:
    """Four `examples` as one, whose image (size, size, 3) is a canvas; each fills a corner up to a random center.

    `pixels` is the setting of that name. Each image is scaled, mirrored and cropped at random. Of an object the part
    inside its image's corner remains: it is left out below `min_visible` of its box, as on any canvas, and keypoints
    that are cut off become unlabeled. There are no captions. Images are scaled once, straight into their corner.
    """
    canvas = blank(size, pad_value, pixels)
    x, y = np.rint(rng.uniform(*CENTER, 2) * size).astype(int).tolist()
    corners = (0, 0, x, y), (x, 0, size, y), (0, y, x, size), (x, y, size, size)
    parts = []
    for example, frame in zip(examples, corners, strict=True):
        first, end = np.reshape(frame, (2, 2))
        geometry, flipped = _place(example, end - first, size, data, rng)
        geometry.paint(example.image, canvas[first[1] : end[1], first[0] : end[0]])
        parts.append(_cut(moved(example, geometry.shift(*first), flipped), frame, data.min_visible))
    return combine(canvas, parts)


def _place(
    example: Example, sides: np.ndarray, size: int, data: DataCFG, rng: np.random.Generator
) -> tuple[Geometry, bool]:
    """Where an image lies in a corner of `sides` (2,) pixels, whose own upper left is 0 0, and whether it is mirrored.

    A larger image is cropped at random; a smaller one lies anywhere in the corner.
    """
    height, width = example.image.shape[:2]
    geometry = Geometry.letterbox(width, height, size)
    geometry = geometry.zoom(rng.uniform(SHRINK * data.min_scale, data.max_scale), (0, 0))
    extent = geometry.apply([width, height])
    flipped = bool(rng.random() < data.flip)
    if flipped:
        geometry = geometry.flip(extent[0])
    return geometry.shift(*np.rint(rng.random(2) * (sides - extent))), flipped


def _cut(example: Example, frame: tuple[int, int, int, int], min_visible: float) -> Example:
    """What `frame` (4,) x1 y1 x2 y2 shows of the example's objects."""
    shown = example.without(~is_shown(example.boxes, min_visible, frame))
    first, end = np.reshape(frame, (2, 2))
    places, labels = shown.keypoints[..., :2], shown.keypoints[..., 2:]
    inside = ((places >= first) & (places <= end)).all(axis=-1, keepdims=True)
    clipped = [[clip_polygon(polygon, frame) for polygon in polygons] for polygons in shown.polygons]
    return replace(
        shown,
        boxes=np.clip(shown.boxes, np.tile(first, 2), np.tile(end, 2)),
        polygons=[[polygon for polygon in polygons if len(polygon)] for polygons in clipped],
        keypoints=np.concatenate([places, np.where(inside, labels, 0)], axis=-1),
    )
