"""Validation of annotations in COCO's format: what cannot be used is left out and counted.

Objects keep COCO's keys. `bbox` is clipped to the image; `segmentation` and `keypoints` are kept if they are valid.
What another field or another reading tells is mended, and counted, too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco_mask

from pix2seq.dataset.box_counts import KEYPOINTS, POLYGONS, TOLERANCE_PX, BoxCounts
from pix2seq.dataset.mending import are_numbers, mend_box, mend_points, mend_shape
from pix2seq.errors import UserError, plain
from pix2seq.token_ids import CLASS_SHIFT, COORD_SHIFT

MAX_CLASSES = COORD_SHIFT - CLASS_SHIFT - 1
MOST_OF_PLACE = 400  # characters of where a mistake is, which a path may have
MOST_RUN_BITS = 60  # of a number in run lengths
YES = (1, "1")  # values of flags: some tools write strings, and bool("0") would be true


@dataclass
class Problems:
    """The number of mistakes of each kind, and where the first one is."""

    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, str] = field(default_factory=dict)

    def add(self, kind: str, where: str) -> None:
        """Count a mistake of a `kind`."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind not in self.first:
            self.first[kind] = plain(where, MOST_OF_PLACE)

    def exchange(self, old: Problems, new: Problems) -> None:
        """Count the mistakes `new` in place of `old`, which are among these."""
        for kind, count in old.counts.items():
            self.counts[kind] -= count
            if not self.counts[kind]:
                del self.counts[kind], self.first[kind]
        for kind, count in new.counts.items():
            self.counts[kind] = self.counts.get(kind, 0) + count
            self.first.setdefault(kind, new.first[kind])

    def lines(self) -> list[str]:
        """One line for each kind of mistake."""
        return [f"{count} × {kind} (first: {self.first[kind]})" for kind, count in self.counts.items()]

    def report(self) -> list[str]:
        """These lines as they are printed beside what was made of the rest."""
        return [f"left out or repaired: {line}" for line in self.lines()]


def number_classes(names: Mapping[int, str]) -> dict[int, int]:
    """Class id by file id: the same if there is a token for every id of `names`, else 1, 2, … in the ids' order."""
    odd = [number for number in names if isinstance(number, bool) or not isinstance(number, int)]
    if odd:
        raise UserError(f"category ids must be whole numbers, got {odd[0]!r} ({names[odd[0]]})")
    if len(names) > MAX_CLASSES:
        raise UserError(f"there are token ids for {MAX_CLASSES} classes, got {len(names)}; choose some with --classes")
    twice = sorted({name for name in names.values() if list(names.values()).count(name) > 1})
    if twice:
        raise UserError(f"two categories are named {twice[0]!r}; give each a different name")
    if all(0 < number <= MAX_CLASSES for number in names):
        return {number: number for number in names}
    return {number: rank for rank, number in enumerate(sorted(names), 1)}


class ObjectReader:
    """Validates the objects of annotation files and counts those that are left out."""

    def __init__(
        self,
        images: Mapping[int, dict],
        known: Mapping[int, str],
        class_ids: Mapping[int, int],
        num_points: int,
        problems: Problems,
        strange: Collection[int] = (),
    ) -> None:
        """`images` by id, `known` category names by file id, `class_ids` of the used categories by file id.

        Objects have `num_points` keypoints; 0: those that they may have are not read.
        The categories with the file ids `strange` were requested too, but the model has no class of their name.
        """
        self.images, self.known, self.class_ids, self.strange = images, known, class_ids, strange
        self.num_points, self.problems = num_points, problems
        self.box_counts = BoxCounts()
        self.spoiled: dict[int, str] = {}  # images, and the first of their objects that cannot be read

    def read(self, annotation: dict) -> dict | None:
        """The valid part of the annotation, with `category_id` as in the file; None if it cannot be used.

        The image of an object that is there but cannot be read is added to `spoiled`.
        """
        where = f"annotation {annotation.get('id', '?')} of image {annotation.get('image_id', '?')}"
        image_id, category = annotation.get("image_id"), annotation.get("category_id")
        if image_id not in self.images:
            return self._refuse("object of an image that is not listed", where)
        if category not in self.known:
            kind = "object without a class" if category is None else "unknown category"
            return self._spoil(image_id, kind, f"{where}: category_id {category!r}")
        if category in self.strange:
            kind = "object of a class that the model does not have, left out"
            return self._refuse(kind, f"{where}: {self.known[category]}")
        if category not in self.class_ids:
            return None  # known, but not among the requested classes
        image = self.images[image_id]
        shape = self._shape(annotation["segmentation"], image, where) if annotation.get("segmentation") else None
        bbox = self._box(annotation, shape, image, where)
        if bbox is None:
            return None
        entry = {key: annotation.get(key) for key in ("id", "image_id", "category_id")} | {"bbox": bbox}
        entry["iscrowd"] = int(annotation.get("iscrowd") in YES)
        entry["difficult"] = annotation.get("difficult") in YES
        if shape:
            entry["segmentation"] = shape
        if are_numbers([annotation.get("area")]):
            entry["area"] = annotation["area"]
        else:
            entry["area"] = area_of(shape) if shape else bbox[2] * bbox[3]
        if annotation.get("keypoints") is not None and (points := self._points(annotation["keypoints"], where)):
            entry |= {"keypoints": points, "num_keypoints": sum(v > 0 for v in points[2::3])}
        return entry

    def _refuse(self, kind: str, where: str) -> None:
        self.problems.add(kind, where)

    def _spoil(self, image_id: int, kind: str, where: str) -> None:
        self.problems.add(kind, where)
        self.spoiled.setdefault(image_id, where)

    def _box(self, annotation: dict, shape: list | dict | None, image: dict, where: str) -> list[float] | None:
        """The box, cut to the image; that of the segmentation `shape` if the annotation has none that can be used."""
        given = annotation.get("bbox")
        where = f"{where}: {given}"
        box, remark = mend_box(given)
        if box:
            self.box_counts.add(box, image)
        cut = cut_to_image(box, image) if box else None
        if cut is None and shape:
            self.problems.add("box that is missing or cannot be used, taken from the segmentation", where)
            around = box_of(shape)
            self.box_counts.add(around, image)
            return cut_to_image(around, image)
        if cut is None:
            return self._spoil(image["id"], "box outside the image" if box else remark, where)
        if remark:
            self.problems.add(remark, where)
        if reaches_beyond(box, cut):
            self.problems.add("box that reaches beyond the image, clipped", where)
        return cut

    def _shape(self, shape: Any, image: dict, where: str) -> list | dict | None:
        """The polygons or run lengths that have an area; None if the segmentation is invalid."""
        shape, remark = mend_shape(shape)
        if remark:
            self.problems.add(remark, where)
        if isinstance(shape, dict):
            return self._run_lengths(shape, image, where)
        if not isinstance(shape, (list, tuple)):
            return self._refuse("segmentation that is neither polygons nor run lengths", where)
        sound = [flat for flat in shape if _is_polygon(flat, image)]
        if sound:
            self.box_counts.add_numbers(POLYGONS, chain.from_iterable(sound))
        if len(sound) < len(shape):
            self.problems.add("polygon without area in the image, or with odd or infinite numbers", where)
        return sound

    def _run_lengths(self, shape: dict, image: dict, where: str) -> dict | None:
        try:
            height, width = shape["size"]
            runs = run_lengths(shape["counts"])
            if min(runs) < 0 or sum(runs) != height * width:
                raise ValueError("the run lengths do not fill the mask")
            area = area_of(shape)
        except Exception:  # pycocotools reports what it cannot read in many ways
            return self._refuse("run lengths that cannot be read", where)
        if (image.get("height", height), image.get("width", width)) != (height, width):
            return self._refuse("run lengths of another size than the image", where)
        return shape if area else None

    def _points(self, flat: Sequence[float], where: str) -> list[float] | None:
        if not self.num_points:
            return None
        flat, remark = mend_points(flat)
        if remark:
            self.problems.add(remark, where)
        sound = isinstance(flat, (list, tuple)) and are_numbers(flat)
        if sound and not any(flat):
            return None
        if not sound or len(flat) != 3 * self.num_points:
            return self._refuse(f"keypoints that are not {self.num_points} × finite x, y, v", where)
        if not any(flat[2::3]):
            return None
        self.box_counts.add_numbers(KEYPOINTS, chain(flat[::3], flat[1::3]))
        return list(flat)


def cut_to_image(box: Sequence[float], image: Mapping) -> list[float] | None:
    """The part of a box x, y, width, height that lies in the image; None if none does."""
    x, y, width, height = box
    limit_x, limit_y = image.get("width", math.inf), image.get("height", math.inf)
    x1, y1, x2, y2 = max(x, 0.0), max(y, 0.0), min(x + width, limit_x), min(y + height, limit_y)
    return [x1, y1, x2 - x1, y2 - y1] if x2 > x1 and y2 > y1 else None


def reaches_beyond(box: Sequence[float], cut: Sequence[float]) -> bool:
    """Whether `cut`, what of a box lies in its image, lacks more than a rounding error."""
    (x1, y1, width, height), (left, top, cut_width, cut_height) = box, cut
    beyond = left - x1, top - y1, x1 + width - left - cut_width, y1 + height - top - cut_height
    return max(beyond) > TOLERANCE_PX


def box_of(segmentation: list | dict) -> list[float]:
    """The box x, y, width, height around a valid segmentation."""
    if isinstance(segmentation, dict):
        return coco_mask.toBbox(compress(segmentation)).tolist()
    points = np.concatenate(polygons_of(segmentation))
    return [*points.min(axis=0).tolist(), *np.ptp(points, axis=0).tolist()]


def _is_polygon(flat: Sequence[float], image: Mapping) -> bool:
    if not isinstance(flat, (list, tuple)) or len(flat) < 6 or len(flat) % 2 or not are_numbers(flat):
        return False
    sides = (flat[::2], image.get("width", math.inf)), (flat[1::2], image.get("height", math.inf))
    return all(min(max(ends), limit) > max(min(ends), 0) for ends, limit in sides)


def compress(shape: dict) -> dict:
    """COCO's compressed run lengths, from compressed or uncompressed ones."""
    return coco_mask.frPyObjects(shape, *shape["size"]) if isinstance(shape["counts"], list) else shape


def run_lengths(counts: list[int] | str | bytes) -> list[int]:
    """The number of pixels of each run, from a list or from COCO's string (`rleFrString` in its `maskApi.c`).

    A character's code minus 48 has 5 bits of a number, the lowest first, and a sixth bit that is set if more follow.
    From the fourth run on, the number is the difference to the run two places before. Raises ValueError for a number
    that no image has so many pixels for.
    """
    if isinstance(counts, list):
        return counts
    runs, number, bits = [], 0, 0
    for code in counts.encode("ascii") if isinstance(counts, str) else counts:
        part = code - 48
        if bits > MOST_RUN_BITS:
            raise ValueError("a run without end")
        number, bits = number | (part & 31) << bits, bits + 5
        if not part & 32:
            signed = number - (1 << bits) if part & 16 else number
            runs.append(signed + (runs[-2] if len(runs) > 2 else 0))
            number, bits = 0, 0
    return runs


def polygons_of(segmentation: list | dict) -> list[np.ndarray]:
    """Polygons, (K, 2) arrays of x y, of a valid segmentation; those of run lengths follow the pixels' edges."""
    if isinstance(segmentation, dict):
        return outline(coco_mask.decode(compress(segmentation)))
    return [np.array(flat, dtype=np.float64).reshape(-1, 2) for flat in segmentation]


def area_of(segmentation: list | dict) -> float:
    """The area of a valid segmentation in pixels."""
    if isinstance(segmentation, dict):
        return float(coco_mask.area(compress(segmentation)))
    return float(sum(cv2.contourArea(polygon.astype(np.float32)) for polygon in polygons_of(segmentation)))


def outline(mask: np.ndarray) -> list[np.ndarray]:
    """Polygons [(K, 2)] of x y around the parts of `mask` (H, W) 0/1, which fill the same pixels; holes are filled.

    OpenCV's contours run through pixel centers, half a pixel too far inside. On a mask of twice the size, where pixel i
    has become 2 i and 2 i + 1, they distinguish a pixel's left edge from its right one.
    """
    x, y, width, height = cv2.boundingRect(mask)
    window = mask[y : y + height, x : x + width]
    doubled = np.ascontiguousarray(window.repeat(2, axis=0).repeat(2, axis=1))
    contours, _ = cv2.findContours(doubled, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE)
    return [(contour[:, 0].astype(np.float64) + 1) // 2 + [x, y] for contour in contours if len(contour) >= 3]


def outline_parts(mask: np.ndarray) -> list[np.ndarray]:
    """Like `outline`, but with holes: a part that has one is cut in two through it, across its shorter side."""
    contours, tree = cv2.findContours(mask, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = [contour for contour, links in zip(contours, tree[0], strict=True) if links[3] >= 0] if contours else []
    if not holes:
        return outline(mask)
    x, y, width, height = cv2.boundingRect(max(holes, key=cv2.contourArea))
    if mask.shape[1] > mask.shape[0]:
        cut = x + width // 2
        parts, shift = (mask[:, :cut], mask[:, cut:]), (cut, 0)
    else:
        cut = y + height // 2
        parts, shift = (mask[:cut], mask[cut:]), (0, cut)
    first, second = (outline_parts(np.ascontiguousarray(part)) for part in parts)
    return first + [polygon + shift for polygon in second]
