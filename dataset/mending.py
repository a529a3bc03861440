"""Annotations that are written otherwise than COCO's format says, but whose meaning is certain all the same.

Each function returns the sound form and what was mended, in words; the words are empty if nothing was, and the form is
None if nothing is certain.
"""

from __future__ import annotations

import ast
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

TEXT_ID = "id that is text in one place and a number in another, matched all the same"
NOT_FINITE = "box that is not four finite numbers"


def are_numbers(values: Sequence) -> bool:
    """Whether all are finite numbers."""
    try:
        return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    except OverflowError:  # a whole number beyond the largest float
        return False


def mend_shape(shape: Any) -> tuple[Any, str]:
    """A segmentation as a list of flat polygons, or as run lengths whose string is that of COCO.

    Some tools write one flat polygon without the list around it, points as pairs, or the text of a Python bytes object.
    """
    if isinstance(shape, dict):
        counts = shape.get("counts")
        if isinstance(counts, str) and counts[:2] in ("b'", 'b"') and (text := _bytes_literal(counts)):
            return shape | {"counts": text}, "run lengths written as Python's b'…', read as what they hold"
        return shape, ""
    if not isinstance(shape, (list, tuple)) or not shape:
        return shape, ""
    if are_numbers(shape):
        return [list(shape)], "flat list of coordinates, read as one polygon"
    if _are_points(shape):
        return [list(chain.from_iterable(shape))], "list of points, read as one polygon"
    if any(map(_are_points, shape)):
        flat = [list(chain.from_iterable(part)) if _are_points(part) else part for part in shape]
        return flat, "polygon of points, read as flat coordinates"
    return shape, ""


def _bytes_literal(text: str) -> str | None:
    try:
        return ast.literal_eval(text).decode("ascii")
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _are_points(values: Any) -> bool:
    """Whether these are at least three pairs of numbers."""
    if not isinstance(values, (list, tuple)) or len(values) < 3:
        return False
    return all(isinstance(pair, (list, tuple)) and len(pair) == 2 and are_numbers(pair) for pair in values)


def mend_points(flat: Any) -> tuple[Any, str]:
    """Keypoints as one flat list, which some tools write as x, y, v triples."""
    triples = isinstance(flat, (list, tuple)) and bool(flat)
    if triples and all(isinstance(point, (list, tuple)) and len(point) == 3 for point in flat):
        return list(chain.from_iterable(flat)), "keypoints in triples, read as one list"
    return flat, ""


def mend_box(bbox: Any) -> tuple[list[float] | None, str]:
    """x, y, width, height of a box; one with a negative side was drawn from another corner.

    None, and what is wrong with it, if these are not four numbers or a side is zero.
    """
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        return None, NOT_FINITE
    mended = ""
    if any(isinstance(value, str) for value in bbox):
        bbox, mended = [_number(value) for value in bbox], "box whose numbers are text, read as numbers"
    if not are_numbers(bbox):
        return None, NOT_FINITE
    x, y, width, height = map(float, bbox)
    if not (width and height):
        return None, "empty box"
    if width < 0 or height < 0:
        mended = "box with a negative side, corners put in order"
    return [min(x, x + width), min(y, y + height), abs(width), abs(height)], mended


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def match_ids(content: dict) -> list[tuple[str, str]]:
    """Let references to images and categories have the ids' own spelling: "785" and "0785" mean the image 785.

    Category ids that are text become numbers. `content` is changed in place; returns what was mended, and where. Where
    two ids differ in spelling alone, nothing is.
    """
    mended = []
    categories, annotations = content.get("categories") or [], content["annotations"]
    numbers = [_id_number(entry["id"]) for entry in categories]
    if len(set(numbers)) == len(numbers):
        for entry, number in zip(categories, numbers, strict=True):
            if isinstance(entry["id"], str) and isinstance(number, int):
                mended.append((TEXT_ID, f"category {entry['id']!r}"))
                entry["id"] = number
    for key, listed in (("image_id", content["images"]), ("category_id", categories)):
        own = {entry["id"] for entry in listed}
        spelled = _by_number(own)
        for entry in annotations:
            given = entry.get(key)
            if given is not None and given not in own and _id_number(given) in spelled:
                mended.append((TEXT_ID, f"{key} {given!r} of annotation {entry.get('id', '?')}"))
                entry[key] = spelled[_id_number(given)]
    return mended


def _by_number(ids: Iterable) -> Mapping:
    """The ids by the number that they spell, without those that spell the same one."""
    found: dict = {}
    for own in ids:
        found.setdefault(_id_number(own), []).append(own)
    return {number: same[0] for number, same in found.items() if len(same) == 1}


def _id_number(value: Any) -> Any:
    """The number that an id spells, else the id itself."""
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else value
