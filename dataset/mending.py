"""Annotations that are written otherwise than COCO's format says, but whose meaning is certain all the same.

Each function returns the sound form and what was mended, in words; the words are empty if nothing was, and the form is
None if nothing is certain.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from typing import Any

TEXT_ID = "id that is text in one place and a number in another, matched all the same"
NAMED = "reference by name instead of the id, matched with it"
SIDES = ("x", "y", "width", "height")
NOT_FINITE = "box that is not four finite numbers"


def are_numbers(values: Sequence) -> bool:
    """Whether all are finite numbers."""
    try:
        return all(isinstance(value, (int, float)) and math.isfinite(value) for value in values)
    except OverflowError:  # a whole number beyond the largest float
        return False


def mend_shape(shape: Any) -> tuple[Any, str]:
    """A segmentation as a list of flat polygons, or as run lengths whose string is that of COCO.

    Some tools write one flat polygon without the list around it, points as pairs, numbers or all of it as text, or the
    text of a Python bytes object.
    """
    plain = unquoted(shape)
    if isinstance(shape, (str, list, tuple, dict)) and plain != shape:  # a number may be none, and unlike itself
        mended, remark = mend_shape(plain)
        return mended, remark or "segmentation that is text, read as what it holds"
    if isinstance(shape, (list, tuple)) and len(shape) == 1 and isinstance(shape[0], dict) and "counts" in shape[0]:
        return mend_shape(shape[0])
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


def unquoted(value: Any) -> Any:
    """A value in which JSON written as text is what it says, and so is every number of a list; a point {"x": …, "y": …}
    is a pair. Run lengths in COCO's string stay as they are."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return value
    if isinstance(value, (list, tuple)):
        return [_number(unquoted(part)) for part in value]
    if isinstance(value, dict) and value.keys() == {"x", "y"}:
        return [_number(value["x"]), _number(value["y"])]
    if isinstance(value, dict) and {"size", "counts"} <= value.keys():
        return value | {name: unquoted(value[name]) for name in ("size", "counts")}
    return value


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
    bbox, mended = _box_list(bbox)
    if not isinstance(bbox, (list, tuple)) or len(bbox) != 4:
        return None, NOT_FINITE
    if not are_numbers(bbox):
        return None, NOT_FINITE
    x, y, width, height = map(float, bbox)
    if not (width and height):
        return None, "empty box"
    if width < 0 or height < 0:
        mended = "box with a negative side, corners put in order"
    return [min(x, x + width), min(y, y + height), abs(width), abs(height)], mended


def _box_list(bbox: Any) -> tuple[Any, str]:
    """The numbers of a box that is written as text, by their names, or in a list of its own."""
    if isinstance(bbox, str) and len(parts := bbox.strip(" []()").split(",")) == 4:
        return [_number(part) for part in parts], "box that is text, read as numbers"
    if isinstance(bbox, dict) and bbox.keys() == set(SIDES):
        return [_number(bbox[side]) for side in SIDES], "box with named numbers, read as x, y, width, height"
    if not isinstance(bbox, (list, tuple)):
        return bbox, ""
    if len(bbox) == 1 and isinstance(bbox[0], (list, tuple)):
        return bbox[0], "box in a list of its own"
    if any(isinstance(value, str) for value in bbox):
        return [_number(value) for value in bbox], "box whose numbers are text, read as numbers"
    return bbox, ""


def _number(value: Any) -> Any:
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def match_ids(content: dict) -> list[tuple[str, str]]:
    """Let references to images and categories have the ids' own spelling: "785" and "0785" mean the image 785, and so
    does its file's name.

    Category ids that are text become numbers. `content` is changed in place; returns what was mended, and where. Where
    two ids differ in spelling alone, or two entries have one name, nothing is.
    """
    mended = []
    categories, annotations = content.get("categories") or [], content["annotations"]
    numbers = [_id_number(entry["id"]) for entry in categories]
    if len(set(numbers)) == len(numbers):
        for entry, number in zip(categories, numbers, strict=True):
            if isinstance(entry["id"], str) and isinstance(number, int):
                mended.append((TEXT_ID, f"category {entry['id']!r}"))
                entry["id"] = number
    for key, name, listed in (("image_id", "file_name", content["images"]), ("category_id", "name", categories)):
        own = {entry["id"] for entry in listed}
        spelled, named = _by_number(own), _by_name(listed, name)
        for entry in annotations:
            given = entry.get(key)
            if given is None or given in own:
                continue
            meant = spelled.get(_id_number(given), named.get(given))
            if meant is not None:
                kind = TEXT_ID if _id_number(given) in spelled else NAMED
                mended.append((kind, f"{key} {given!r} of annotation {entry.get('id', '?')}"))
                entry[key] = meant
    return mended


def _by_name(entries: Iterable[Mapping], key: str) -> Mapping:
    """The ids of entries by their names, and by these without a suffix, without those that several have."""
    found: dict = {}
    for entry in entries:
        name = str(entry[key])
        for spelled in {name, name.rpartition(".")[0] or name}:
            found.setdefault(spelled, set()).add(entry["id"])
    return {name: next(iter(ids)) for name, ids in found.items() if len(ids) == 1}


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
