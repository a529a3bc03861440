"""Sampled polygons vote on a mask."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pix2seq.dataset.masks import encode_mask, rasterize


@dataclass(frozen=True)
class Mask:
    """`rle` is COCO's compressed run lengths at the image's size; `score` the mean share of votes for its pixels."""

    rle: dict
    score: float


def vote(samples: Sequence[Sequence[np.ndarray]], height: int, width: int, threshold: float) -> Mask:
    """The pixels that at least a share `threshold` of the `samples` hold; each is a list of polygons [(K, 2)] of x y.

    Only the polygons' own bounding box is rasterised: a small object in a large photograph costs little.
    """
    mask = np.zeros((height, width), np.uint8, order="F")
    points = [polygon for polygons in samples for polygon in polygons]
    corner, end = _window(np.concatenate(points), height, width) if points else (np.zeros(2, int), np.zeros(2, int))
    if (end == corner).any():
        return Mask(encode_mask(mask), 0.0)
    shape = (end - corner)[::-1]
    votes = np.zeros(shape, np.uint16, order="F")
    for polygons in samples:
        votes += rasterize([polygon - corner for polygon in polygons], *(int(side) for side in shape))
    inside = votes >= max(threshold * len(samples), 1)
    mask[corner[1] : end[1], corner[0] : end[0]] = inside
    score = float(votes[inside].mean()) / len(samples) if inside.any() else 0.0
    return Mask(encode_mask(mask), score)


def _window(points: np.ndarray, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Upper left corner and end, x y in whole pixels, of the part of the image that points (K, 2) span."""
    size = [width, height]
    corner = np.clip(np.floor(points.min(axis=0)), 0, size).astype(int)
    return corner, np.clip(np.ceil(points.max(axis=0)), corner, size).astype(int)
