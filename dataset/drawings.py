"""What people draw in annotation tools, in COCO's format: rectangles, polygons, ellipses and masks on images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from pix2seq.dataset.annotations import outline_parts
from pix2seq.dataset.mending import are_numbers, unquoted
from pix2seq.errors import plain, shown

FREE_PIXELS, PIXELS_PER_BYTE = 4e8, 1000  # of all masks, and more for each byte: a few can stand for any number
CORNERS = 32  # of the polygon that an ellipse becomes
NOT_READ = "{} that has no area, left out"  # points and lines


class Drawings:
    """Collects images and the objects on them; an object is on the image that was added last.

    Classes are numbered in the order of `names`, then by the alphabet; `categories` has more about some of them.
    """

    def __init__(self, names: Iterable[str] = (), categories: Mapping[str, dict] | None = None) -> None:
        self.names, self.categories = list(dict.fromkeys(names)), dict(categories or {})
        self.images: list[dict] = []
        self.objects: list[tuple[str | None, dict]] = []
        self.problems: list[tuple[str, str]] = []
        self.mask_pixels = FREE_PIXELS

    def has_room(self, pixels: float, size: int) -> bool:
        """Whether a mask of so many `pixels`, which the file says in `size` bytes, may be decoded: small files do not
        stand for hours of work."""
        self.mask_pixels += PIXELS_PER_BYTE * size - pixels
        return self.mask_pixels >= 0

    def add_image(self, name: str, sides: Mapping[str, Any]) -> None:
        """Add an image with what is known of its `width` and `height`."""
        self.images.append({"id": len(self.images) + 1, "file_name": name} | sides)

    def add(self, label: Any, shape: Mapping[str, Any]) -> None:
        """Add an object; one without a class, or that is `no_shape`, is refused with its image when it is read."""
        name = plain(label) if isinstance(label, str) else ""
        entry = {"id": len(self.objects) + 1, "image_id": len(self.images)} | shape
        self.objects.append((name or None, entry))

    def leave_out(self, kind: str) -> None:
        """Count what was drawn that is no object, such as a `point`."""
        self.problems.append((NOT_READ.format(kind), self.images[-1]["file_name"]))

    def content(self) -> dict:
        """All of it in COCO's format, with `problems`."""
        others = sorted({name for name, _ in self.objects if name}.difference(self.names))
        numbers = {name: number for number, name in enumerate([*self.names, *others], 1)}
        categories = [{"id": number, "name": name} | self.categories.get(name, {}) for name, number in numbers.items()]
        annotations = [entry | {"category_id": numbers.get(name)} for name, entry in self.objects]
        content = {"images": self.images, "annotations": annotations, "categories": categories}
        return content | {"problems": self.problems}


def numbers_of(values: Any, least: int = 0) -> list[float] | None:
    """At least so many finite numbers, some of which may be written as text; None if they are not."""
    values = unquoted(values)
    if not isinstance(values, list) or len(values) < least or not are_numbers(values):
        return None
    return [float(value) for value in values]


def rectangle(ends: Any, degrees: float = 0.0) -> dict:
    """The box between corners x y x y, in any order; one that is turned clockwise about its center is a polygon."""
    numbers = numbers_of(ends, 4)
    if numbers is None:
        return no_shape(ends)
    (left, right), (top, bottom) = ((min(side), max(side)) for side in (numbers[::2], numbers[1::2]))
    if degrees % 360 == 0:
        return {"bbox": [left, top, right - left, bottom - top]}
    corners = np.array([[left, top], [right, top], [right, bottom], [left, bottom]])
    middle, angle = corners.mean(axis=0), math.radians(degrees)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    return polygons([((corners - middle) @ turn + middle).flatten().tolist()])


def ellipse(center_and_radii: Any, degrees: float = 0.0) -> dict:
    """The polygon of an ellipse x y rx ry, turned clockwise about its center."""
    numbers = numbers_of(center_and_radii, 4)
    if numbers is None or not math.isfinite(degrees):
        return no_shape(center_and_radii)
    x, y, radius_x, radius_y = numbers[:4]
    around, angle = np.linspace(0, 2 * math.pi, CORNERS, endpoint=False), math.radians(degrees)
    across, down = radius_x * np.cos(around), radius_y * np.sin(around)
    points = [
        x + across * math.cos(angle) - down * math.sin(angle),
        y + across * math.sin(angle) + down * math.cos(angle),
    ]
    return polygons([np.stack(points, axis=1).flatten().tolist()])


def polygons(parts: Sequence[Any]) -> dict:
    """An object of one or several flat polygons x y x y …, and the box around them."""
    flat = [numbers_of(part, 6) for part in parts]
    if None in flat or any(len(part) % 2 for part in flat):
        return no_shape(parts)
    xs, ys = ([value for part in flat for value in part[axis::2]] for axis in (0, 1))
    return {"bbox": [min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys)], "segmentation": flat}


def mask_at(mask: np.ndarray, left: float, top: float) -> dict:
    """The object of a `mask` (H, W) of 0 and 1 whose first pixel lies at `left`, `top` of the image."""
    corner = np.array([left, top])
    parts = [(polygon + corner).flatten().tolist() for polygon in outline_parts(np.ascontiguousarray(mask))]
    return polygons(parts) if parts else no_shape("an empty mask")


def no_shape(given: Any) -> dict:
    """What stands for an object that cannot be read: a box that is refused when annotations are read."""
    return {"bbox": [shown(given)]}
