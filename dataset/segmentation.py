"""Examples to segmentation sequences."""

from __future__ import annotations

import numpy as np

from dataset.coco import Example
from dataset.geometry import Geometry, resample_polygons
from tokenizers.segmentation import SegmentationTokenizer
from tokenizers.vocabulary import TokenSequence


def has_mask(example: Example) -> np.ndarray:
    """Which objects (n,) have polygons."""
    return np.array([bool(polygons) for polygons in example.polygons], dtype=bool)


def segmentation_sequence(
    example: Example,
    index: int,
    box: np.ndarray,
    geometry: Geometry,
    tokenizer: SegmentationTokenizer,
    max_points: int,
    rng: np.random.Generator,
) -> TokenSequence:
    """Object `index`'s polygons, prompted by `box` (4,) y1 x1 y2 x2 in canvas fractions.

    Every polygon runs the same way round and starts at a random point, so that samples of a mask differ.
    """
    polygons = [geometry.to_fractions(polygon) for polygon in example.polygons[index]]
    polygons = [_clockwise(polygon) for polygon in resample_polygons(polygons, max_points)]
    polygons = [np.roll(polygon, rng.integers(len(polygon)), axis=0) for polygon in polygons]
    return tokenizer.encode(box, example.classes[index], polygons)


def _clockwise(polygon: np.ndarray) -> np.ndarray:
    """A polygon (K, 2) y x in clockwise order as seen in the picture; a mirrored crop turns it round."""
    y, x = polygon.T
    doubled_area = np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))
    return polygon if doubled_area >= 0 else polygon[::-1]
