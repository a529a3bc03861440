"""Annotations in COCO's format, made fit for use: what cannot be used is left out and counted.

Objects keep COCO's keys. `bbox` is clipped to the picture; `segmentation` and `keypoints` are there if they are usable.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from config import UserError
from tokenizers.vocabulary import CLASS_SHIFT, COORD_SHIFT

MAX_CLASSES = COORD_SHIFT - CLASS_SHIFT - 1
YES = (1, "1")  # flags: some tools write strings, of which "0" would be as true as "1"
TOLERANCE_PX = 1.0  # a box that reaches further beyond its picture is reported


@dataclass
class Problems:
    """How often each mistake was met, and where first."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, where: str) -> None:
        """One more mistake of a `kind`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        self.first.setdefault(kind, where)

    def lines(self) -> list[str]:
        """One line for each kind of mistake."""
        return [f"{count} × {kind} (first: {self.first[kind]})" for kind, count in self.counts.items()]


def number_classes(names: Mapping[int, str]) -> dict[int, int]:
    """Class id by file id: the same if every id of `names` has a token, else 1, 2, … in the order of the file ids."""
    odd = [number for number in names if isinstance(number, bool) or not isinstance(number, int)]
    if odd:
        raise UserError(f"category ids must be whole numbers, got {odd[0]!r} ({names[odd[0]]})")
    if len(names) > MAX_CLASSES:
        raise UserError(f"there are token ids for {MAX_CLASSES} classes, got {len(names)}; choose some with --classes")
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if twice:
        raise UserError(f"two categories are named {twice[0]!r}; give each a name of its own")
    if all(0 < number <= MAX_CLASSES for number in names):
        return {number: number for number in names}
    return {number: rank for rank, number in enumerate(sorted(names), 1)}


class ObjectReader:
    """Sorts the objects of annotation files into sound ones and problems."""

    def __init__(
        self,
        images: Mapping[int, dict],
        known: Mapping[int, str],
        class_ids: Mapping[int, int],
        num_points: int,
        problems: Problems,
    ) -> None:
        """`images` by id, `known` category names by file id, `class_ids` of those that are used."""
        self.images, self.known, self.class_ids = images, known, class_ids
        self.num_points, self.problems = num_points, problems

    def read(self, annotation: dict) -> dict | None:
        """The annotation fit for use, with `category_id` as in the file; None if it cannot be used."""
        where = f"annotation {annotation.get('id', '?')} of picture {annotation.get('image_id', '?')}"
        category = annotation.get("category_id")
        if annotation.get("image_id") not in self.images:
            return self._refuse("object of a picture that is not listed", where)
        if category not in self.known:
            return self._refuse("unknown category", f"{where}: category_id {category!r}")
        if category not in self.class_ids:
            return None  # known, but not among the classes that are asked for
        bbox = self._box(annotation, self.images[annotation["image_id"]], where)
        if bbox is None:
            return None
        entry = {key: annotation[key] for key in ("id", "image_id", "category_id")} | {"bbox": bbox}
        entry["iscrowd"] = int(annotation.get("iscrowd") in YES)
        entry["difficult"] = annotation.get("difficult") in YES
        entry["area"] = annotation["area"] if _are_numbers([annotation.get("area")]) else bbox[2] * bbox[3]
        if annotation.get("segmentation") is not None and (shape := self._shape(annotation, where)):
            entry["segmentation"] = shape
        if annotation.get("keypoints") is not None and (points := self._points(annotation["keypoints"], where)):
            entry |= {"keypoints": points, "num_keypoints": sum(v > 0 for v in points[2::3])}
        return entry

    def _refuse(self, kind: str, where: str) -> None:
        self.problems.add(kind, where)

    def _box(self, annotation: dict, image: dict, where: str) -> list[float] | None:
        bbox = annotation.get("bbox")
        if not isinstance(bbox, (list, tuple)) or len(bbox) != 4 or not _are_numbers(bbox):
            return self._refuse("box that is not four finite numbers", f"{where}: {bbox}")
        x, y, width, height = map(float, bbox)
        if width <= 0 or height <= 0:
            return self._refuse("empty box", f"{where}: {bbox}")
        limit_x, limit_y = image.get("width", math.inf), image.get("height", math.inf)
        x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + width, limit_x), min(y + height, limit_y)
        if x2 <= x1 or y2 <= y1:
            return self._refuse("box outside the picture", f"{where}: {bbox}")
        if max(x1 - x, y1 - y, x + width - x2, y + height - y2) > TOLERANCE_PX:
            self.problems.add("box that reaches beyond the picture, clipped", f"{where}: {bbox}")
        return [x1, y1, x2 - x1, y2 - y1]

    def _shape(self, annotation: dict, where: str) -> list | dict | None:
        """Polygons, or run lengths, that hold at least some area."""
        shape = annotation["segmentation"]
        if isinstance(shape, dict):
            return self._run_lengths(shape, self.images[annotation["image_id"]], where)
        if not isinstance(shape, (list, tuple)):
            return self._refuse("segmentation that is neither polygons nor run lengths", where)
        sound = [flat for flat in shape if _is_polygon(flat)]
        if len(sound) < len(shape):
            self.problems.add("polygon without three different points, or with odd or infinite numbers", where)
        return sound

    def _run_lengths(self, shape: dict, image: dict, where: str) -> dict | None:
        try:
            height, width = shape["size"]
            area = int(coco_mask.decode(compress(shape)).sum())
        except Exception:  # pycocotools tells what it cannot read in many ways
            return self._refuse("run lengths that cannot be read", where)
        if (image.get("height", height), image.get("width", width)) != (height, width):
            return self._refuse("run lengths of another size than the picture", where)
        return shape if area else None

    def _points(self, flat: Sequence[float], where: str) -> list[float] | None:
        sound = isinstance(flat, (list, tuple)) and _are_numbers(flat)
        if sound and not any(flat):
            return None
        if not sound or len(flat) != 3 * self.num_points:
            return self._refuse(f"keypoints that are not {self.num_points} × finite x, y, v", where)
        return list(flat) if any(flat[2::3]) else None


def _are_numbers(values: Sequence) -> bool:
    return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)


def _is_polygon(flat: Sequence[float]) -> bool:
    if not isinstance(flat, (list, tuple)) or len(flat) < 6 or len(flat) % 2 or not _are_numbers(flat):
        return False
    x, y = flat[::2], flat[1::2]
    return max(x) > min(x) and max(y) > min(y)


def compress(shape: dict) -> dict:
    """COCO's compressed run lengths of either kind of run lengths; raise ValueError if these do not fill the mask."""
    if isinstance(shape["counts"], list):
        if sum(shape["counts"]) != shape["size"][0] * shape["size"][1]:
            raise ValueError("the run lengths do not fill the mask")
        return coco_mask.frPyObjects(shape, *shape["size"])
    return shape


def polygons_of(segmentation: list | dict) -> list[np.ndarray]:
    """Polygons, (K, 2) arrays of x y, of a sound segmentation; those of run lengths follow the pixels' edges."""
    if isinstance(segmentation, dict):
        return outline(coco_mask.decode(compress(segmentation)))
    return [np.array(flat, dtype=np.float64).reshape(-1, 2) for flat in segmentation]


def outline(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons [(K, 2)] of x y around the parts of `mask` (H, W) 0/1, which fill the same pixels; holes are filled.

    OpenCV's contours run through pixel centres, half a pixel too far inside. On a mask of twice the size, where pixel
    i has become 2 i and 2 i + 1, they tell a pixel's left edge from its right one.
    """
    x, y, width, height = cv2.boundingRect(mask)
    window = mask[y : y + height, x : x + width]
    doubled = np.ascontiguousarray(window.repeat(2, axis=0).repeat(2, axis=1))
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [(contour[:, 0].astype(np.float64) + 1) // 2 + [x, y] for contour in contours if len(contour) >= 3]
