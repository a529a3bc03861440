"""Examples to segmentation sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.config import CFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.geometry import Geometry, clip_polygon, resample_polygons
from pix2seq.dataset.views import View
from pix2seq.tokenizers.segmentation import SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import TokenSequence

COCO_FILE = "instances"
LIMIT = ("max_points", "are simplified to")


def trains_on(objects: Sequence[dict], captions: Sequence[str], is_background: bool) -> bool:
    """Images with an object that has a mask."""
    return any(entry.get("segmentation") for entry in objects)


def labeled(example: Example) -> np.ndarray:
    """Which objects (n,) have polygons."""
    return np.array([bool(polygons) for polygons in example.polygons], dtype=bool)


def sequences(view: View, tokenizer: SegmentationTokenizer, cfg: CFG, rng: np.random.Generator) -> list[TokenSequence]:
    """One sequence about the instance, or none where the canvas shows nothing of its mask."""
    if not shown_polygons(view.example, view.instance, view.geometry):
        return []
    box, shuffle = view.prompt_box(cfg.data, rng), cfg.data.shuffle_polygons
    return [segmentation_sequence(view.example, view.instance, box, view.geometry, tokenizer, rng, shuffle)]


def lengths(example: Example, tokenizer: SegmentationTokenizer) -> list[tuple[int, bool]]:
    """For each mask the tokens of all its points."""
    counts = [(sum(map(len, polygons)), len(polygons)) for polygons in example.polygons if polygons]
    return [(tokenizer.length(points, parts), points > tokenizer.max_points) for points, parts in counts]


def segmentation_sequence(
    example: Example,
    index: int,
    box: np.ndarray,
    geometry: Geometry,
    tokenizer: SegmentationTokenizer,
    rng: np.random.Generator,
    shuffle: bool = True,
) -> TokenSequence:
    """The `shown_polygons` of object `index`, of which there must be one, prompted by `box` (4,) y1 x1 y2 x2.

    Every polygon runs the same way round and with `shuffle` starts at a random point, so that samples of a mask differ.
    """
    polygons = shown_polygons(example, index, geometry)
    polygons = [_clockwise(polygon) for polygon in resample_polygons(polygons, tokenizer.max_points)]
    if shuffle:
        polygons = [np.roll(polygon, rng.integers(len(polygon)), axis=0) for polygon in polygons]
    return tokenizer.encode(box, example.classes[index], polygons)


def shown_polygons(example: Example, index: int, geometry: Geometry) -> list[np.ndarray]:
    """What the canvas shows of object `index`'s polygons, [(K, 2)] y x in canvas fractions; empty if nothing."""
    clipped = (clip_polygon(geometry.to_fractions(polygon)) for polygon in example.polygons[index])
    return [polygon for polygon in clipped if len(polygon)]


def _clockwise(polygon: np.ndarray) -> np.ndarray:
    """A polygon (K, 2) y x in clockwise order as seen in the image; a mirrored crop turns it round."""
    y, x = polygon.T
    doubled_area = np.dot(x, np.roll(y, -1)) - np.dot(y, np.roll(x, -1))
    return polygon if doubled_area >= 0 else polygon[::-1]
