"""Masks as pixels, as COCO's run lengths and as polygons, all by COCO's own rasterizer.

Polygons are (K, 2) arrays of x y in pixels; a mask may have several, and what they cover together is the mask.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from pycocotools import mask as coco_mask


def encode_mask(mask: np.ndarray) -> dict:
    """Run lengths, for `pycocotools` and JSON, of a mask (H, W) bool or 0/1."""
    rle = coco_mask.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {"size": list(mask.shape), "counts": rle["counts"].decode("ascii")}


def decode_mask(rle: dict) -> np.ndarray:
    """The mask (H, W) bool of run lengths."""
    return coco_mask.decode(rle).astype(bool)


def encode_polygons(polygons: Sequence[np.ndarray], height: int, width: int) -> dict:
    """Run lengths of what polygons cover of an image of that size, at least one."""
    flat = [polygon.ravel().tolist() for polygon in polygons]
    return coco_mask.merge(coco_mask.frPyObjects(flat, height, width))


def rasterize(polygons: Sequence[np.ndarray], height: int, width: int) -> np.ndarray:
    """What polygons cover (height, width) uint8; what lies outside is cut off."""
    if not polygons:
        return np.zeros((height, width), np.uint8, order="F")
    return coco_mask.decode(encode_polygons(polygons, height, width))


def mask_area(rle: dict) -> int:
    """Pixels of a mask, given as run lengths."""
    return int(coco_mask.area(rle))


def mask_iou(one: dict, other: dict) -> float:
    """Intersection over union of two masks, given as run lengths."""
    return float(coco_mask.iou([one], [other], [0])[0, 0])
