"""Objects moved onto another image, and examples put together: what mosaic and copy-paste share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pix2seq.dataset.coco import Example
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.labels import Unlabeled


def moved(example: Example, geometry: Geometry, flipped: bool) -> Example:
    """The example's objects in pixels of the canvas of `geometry`, which is mirrored if `flipped`; `image` stays as it
    is. Left and right keypoints of a mirrored example swap names."""
    keypoints = example.keypoints[:, list(example.skeleton.flip)] if flipped else example.keypoints
    return replace(
        example,
        boxes=geometry.apply_boxes(example.boxes),
        polygons=[[geometry.apply(polygon) for polygon in polygons] for polygons in example.polygons],
        keypoints=np.concatenate([geometry.apply(keypoints[..., :2]), keypoints[..., 2:]], axis=-1),
    )


def combine(image: np.ndarray, parts: Sequence[Example]) -> Example:
    """`image` (H, W, 3) with the objects of all `parts`, which are in its pixels, and with the first part's id.

    It has no captions: none of theirs says what the whole image shows. What one of them leaves open is open in it.
    """
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in ("boxes", "classes", "keypoints", "difficult")
    }
    polygons = [polygons for part in parts for polygons in part.polygons]
    unlabeled = Unlabeled.in_any([part.unlabeled for part in parts])
    return replace(parts[0], image=image, polygons=polygons, captions=[], unlabeled=unlabeled, **joined)
