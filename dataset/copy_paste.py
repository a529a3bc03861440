"""Copy-paste augmentation: objects of one image pasted on another (Ghiasi et al., 2021, arXiv 2012.07177)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import cv2
import numpy as np

from pix2seq.config import DataCFG
from pix2seq.dataset.annotations import outline_parts
from pix2seq.dataset.coco import Example
from pix2seq.dataset.combining import combine, moved
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.labels import Unlabeled
from pix2seq.dataset.masks import rasterize

SCALES = (0.3, 2.0)  # of a pasted object: its share of the image's longer side, times that in its own image
SMALLEST = 0.04  # longer side of a pasted object, fraction of the image's; smaller ones are not pasted
LARGEST = 0.7  # sides of a pasted object, fraction of the image's: something of the image remains


def has_masks(objects: Sequence[dict], with_difficult: bool) -> bool:
    """Whether an image with these annotations has something to paste elsewhere."""
    return any(entry.get("segmentation") and (with_difficult or not entry["difficult"]) for entry in objects)


def copy_paste(target: Example, source: Example, data: DataCFG, rng: np.random.Generator) -> Example:
    """`target` with one to `copy_paste_objects` random objects of `source` that have polygons, or itself if none has.

    Each is scaled by a factor of its own, mirrored with probability `flip`, placed at random inside the image and may
    cover what was there before, which then has the labels of `visible_objects`. It brings its class, polygons,
    keypoints and the box of its polygons. The example has no captions, since they do not mention what was pasted.
    """
    found = list(_large_objects(source))
    if not found:
        return target
    chosen = rng.permutation(len(found))[: rng.integers(1, data.copy_paste_objects + 1)]
    image, owner = target.image.copy(), np.zeros(target.image.shape[:2], np.uint8)
    pasted = []
    for number, (index, region) in enumerate((found[choice] for choice in chosen), 1):
        alone = source.without(np.arange(len(source.classes)) != index)
        pasted.append(_paste(image, owner, number, alone, region, data, rng))
    parts = [visible_objects(part, owner == number, data.min_visible) for number, part in enumerate([target, *pasted])]
    return combine(image, parts)


def _large_objects(source: Example) -> Iterator[tuple[int, np.ndarray]]:
    """The index of each object that has polygons and is large enough, and the corners (2, 2) x y of its pixels."""
    height, width = source.image.shape[:2]
    for index, polygons in enumerate(source.polygons):
        if polygons:
            region = _whole_pixels(np.concatenate(polygons), height, width)
            sides = region[1] - region[0]
            if sides.min() > 0 and sides.max() >= SMALLEST * max(height, width):
                yield index, region


def _paste(
    image: np.ndarray,
    owner: np.ndarray,
    number: int,
    source: Example,
    region: np.ndarray,
    data: DataCFG,
    rng: np.random.Generator,
) -> Example:
    """Paste the one object of `source`, whose pixels lie in `region`, on `image` (H, W, 3); return it as it is there.

    `owner` (H, W) gets its `number` where it is seen. Its edge is soft: half a pixel on both sides is mixed.
    """
    geometry, flipped, sides, first = _place(source, region, image.shape[:2], data, rng)
    (x1, y1), (x2, y2) = first, first + sides
    window = image[y1:y2, x1:x2]
    patch = window.copy()
    geometry.paint(source.image, patch)
    mask = rasterize([geometry.apply(polygon) for polygon in source.polygons[0]], y2 - y1, x2 - x1)
    share = cv2.GaussianBlur(mask.astype(np.float32), (3, 3), 0, borderType=cv2.BORDER_CONSTANT)
    window[:] = cv2.blendLinear(patch, np.ascontiguousarray(window), share, 1 - share)
    owner[y1:y2, x1:x2][mask > 0] = number
    part = moved(source, geometry.shift(*first), flipped)
    corners = np.clip(np.concatenate(part.polygons[0]), first, first + sides)
    box = np.concatenate([corners.min(axis=0), corners.max(axis=0)])
    # What the source's background shows is not pasted, so that its unlabeled classes are not either.
    return replace(part, boxes=box[None], unlabeled=Unlabeled(points=source.unlabeled.points))


def _place(
    source: Example, region: np.ndarray, shape: tuple[int, int], data: DataCFG, rng: np.random.Generator
) -> tuple[Geometry, bool, np.ndarray, np.ndarray]:
    """Where the part `region` of the source's image is pasted on an image of `shape` (height, width).

    It becomes a rectangle of whole pixels. Returned are the map to it, whose own upper left is 0 0, whether it is
    mirrored, and its sides (2,) and upper left (2,) x y in pixels of the image.
    """
    extent, room = region[1] - region[0], np.array(shape[::-1])
    longer = max(extent.max() / max(source.image.shape[:2]) * rng.uniform(*SCALES), SMALLEST) * room.max()
    scale = min(longer / extent.max(), *(LARGEST * room / extent))
    sides = np.maximum(np.rint(extent * scale), 1).astype(int)
    first = rng.integers(0, room - sides + 1)
    stretch = np.diag(sides / extent)
    geometry = Geometry(np.column_stack([stretch, -stretch @ region[0]]), int(sides[0]))
    flipped = bool(rng.random() < data.flip)
    return geometry.flip() if flipped else geometry, flipped, sides, first


def visible_objects(example: Example, shown: np.ndarray, min_visible: float) -> Example:
    """The objects of an example, of which only the pixels `shown` (H, W) bool of its image are seen.

    An object with polygons keeps those of the visible part of its mask, and its box becomes that of this part. Of one
    without, the box loses edges that are covered along the whole side. Objects that show less than `min_visible` of
    their mask, or of their box if they have no mask, are left out. Covered keypoints are labeled but not visible (v =
    1), as in COCO's annotations: where they are is still learned. Those beside the image are unlabeled.
    """
    boxes, polygons, shares = example.boxes.copy(), list(example.polygons), np.ones(len(example.boxes))
    for index, (box, own) in enumerate(zip(example.boxes, example.polygons, strict=True)):
        boxes[index], polygons[index], shares[index] = _visible_part(box, own, shown)
    keypoints = _covered_keypoints(example.keypoints, shown)
    seen = (shares > 0) & (shares >= min_visible)
    return replace(example, boxes=boxes, polygons=polygons, keypoints=keypoints).without(~seen)


def _visible_part(
    box: np.ndarray, polygons: list[np.ndarray], shown: np.ndarray
) -> tuple[np.ndarray, list[np.ndarray], float]:
    """The box and the polygons of what is `shown` of an object, and its share of the object."""
    first, end = _whole_pixels(np.concatenate(polygons) if polygons else box.reshape(2, 2), *shown.shape)
    seen = shown[first[1] : end[1], first[0] : end[0]]
    if seen.all():
        return box, polygons, 1.0
    mask = rasterize([polygon - first for polygon in polygons], *seen.shape)
    if not mask.any():  # no polygons, or one that is too thin to hold a pixel's center
        mask = np.ones(seen.shape, np.uint8)
    left = mask * seen
    share = np.count_nonzero(left) / np.count_nonzero(mask)
    if share in (0, 1):
        return box, polygons, share
    x, y, width, height = cv2.boundingRect(left)
    bounds = np.array([x, y, x + width, y + height]) + np.tile(first, 2)
    box = np.where(np.abs(bounds - box) < 1, box, bounds)  # an edge that is still seen is known to less than a pixel
    return box, [polygon + first for polygon in outline_parts(left)] if polygons else [], share


def _covered_keypoints(keypoints: np.ndarray, shown: np.ndarray) -> np.ndarray:
    """Keypoints (n, P, 3) x y v with the v that they have where only the pixels `shown` (H, W) are seen."""
    sides = np.array(shown.shape[::-1])
    places, v = keypoints[..., :2], keypoints[..., 2]
    inside = ((places >= 0) & (places <= sides)).all(axis=-1)
    x, y = np.moveaxis(np.clip(places, 0, sides - 1).astype(int), -1, 0)
    v = np.where(inside, np.where(shown[y, x], v, np.minimum(v, 1)), 0)
    return np.concatenate([places, v[..., None]], axis=-1)


def _whole_pixels(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The corners (2, 2) x y of the pixels of an image that the box of `points` (K, 2) touches."""
    (x1, y1), (x2, y2) = points.min(axis=0).tolist(), points.max(axis=0).tolist()
    corners = (math.floor(x1), math.floor(y1)), (math.ceil(x2), math.ceil(y2))
    return np.array([[min(max(x, 0), width), min(max(y, 0), height)] for x, y in corners])
