"""Annotations that are written otherwise than COCO's format says, but whose meaning is certain all the same.

Each function returns the sound form and what was mended, in words; the words are empty if nothing was, and the form is
None if nothing is certain.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, count
from typing import Any

TEXT_ID = "id that is text in one place and a number in another, matched all the same"
DOUBTFUL = "image that a reference may mean as well as another one, left out"
NAMED = "reference by name instead of the id, matched with it"
SIDES = (("x", "y", "width", "height"), ("x", "y", "w", "h"), ("left", "top", "width", "height"))
CORNERS = (("xmin", "ymin", "xmax", "ymax"), ("x1", "y1", "x2", "y2"), ("left", "top", "right", "bottom"))
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
        return [spelled_number(unquoted(part)) for part in value]
    if isinstance(value, dict) and value.keys() == {"x", "y"}:
        return [spelled_number(value["x"]), spelled_number(value["y"])]
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
        return [spelled_number(part) for part in parts], "box that is text, read as numbers"
    if isinstance(bbox, dict) and (names := next((names for names in SIDES + CORNERS if bbox.keys() == {*names}), ())):
        numbers = [spelled_number(bbox[name]) for name in names]
        if names in CORNERS and are_numbers(numbers):
            numbers[2:] = numbers[2] - numbers[0], numbers[3] - numbers[1]
        return numbers, "box with named numbers, read as what they are called"
    if not isinstance(bbox, (list, tuple)):
        return bbox, ""
    if len(bbox) == 1 and isinstance(bbox[0], (list, tuple)):
        return bbox[0], "box in a list of its own"
    if any(isinstance(value, str) for value in bbox):
        return [spelled_number(value) for value in bbox], "box whose numbers are text, read as numbers"
    return bbox, ""


def spelled_number(value: Any) -> Any:
    """The number that a text spells; anything else as it is."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def match_ids(content: dict) -> list[tuple[str, str]]:
    """Let references to images and categories have the ids' own spelling: "785" and "0785" mean the image 785, and so
    does its file's name.

    Category ids that are text become numbers. `content` is changed in place; returns what was mended, and where. Where
    two ids differ in spelling alone, or two entries have one name, nothing is: images that are perhaps meant are left
    out.
    """
    categories, annotations = content.get("categories") or [], content["annotations"]
    mended = _number_categories(categories, annotations)
    doubtful: dict[Any, str] = {}
    for key, name, listed in (("image_id", "file_name", content["images"]), ("category_id", "name", categories)):
        own = {entry["id"] for entry in listed}
        spelled, named = _by_number(own), _by_name(listed, name)
        for entry in annotations:
            given = entry.get(key)
            if given is None or given in own:
                continue
            where, number = f"{key} {given!r} of annotation {entry.get('id', '?')}", _id_number(given)
            meant = spelled.get(number) or named.get(given, [])
            if len(meant) == 1:
                mended.append((TEXT_ID if number in spelled else NAMED, where))
                entry[key] = meant[0]
            elif key == "image_id":
                doubtful |= dict.fromkeys(meant, where)
    content["images"] = [entry for entry in content["images"] if entry["id"] not in doubtful]
    return mended + [(DOUBTFUL, f"image {number!r}: {where}") for number, where in doubtful.items()]


def _number_categories(categories: Iterable[dict], annotations: Iterable[dict]) -> list[tuple[str, str]]:
    """Let category ids that are text be numbers: those that they spell, else free ones."""
    ids = list(dict.fromkeys(entry["id"] for entry in categories))
    spelled = [_id_number(own) for own in ids]
    texts = [own for own in ids if isinstance(own, str)]
    free = (number for number in count(1) if number not in spelled)
    clear = {own for own, number in zip(ids, spelled, strict=True) if number != own and spelled.count(number) == 1}
    new = {text: _id_number(text) if text in clear else next(free) for text in texts}
    for entry in categories:
        entry["id"] = new.get(entry["id"], entry["id"])
    for entry in annotations:
        if isinstance(entry.get("category_id"), str):
            entry["category_id"] = new.get(entry["category_id"], entry["category_id"])
    return [(TEXT_ID, f"category {text!r}") for text in texts]


def _by_name(entries: Iterable[Mapping], key: str) -> Mapping[str, list]:
    """The ids of entries by their names, and by these without a suffix."""
    found: dict = {}
    for entry in entries:
        name = str(entry[key])
        for spelled in {name, name.rpartition(".")[0] or name}:
            found.setdefault(spelled, {})[entry["id"]] = None
    return {name: list(ids) for name, ids in found.items()}


def _by_number(ids: Iterable) -> Mapping[Any, list]:
    """The ids by the number that they spell."""
    found: dict = {}
    for own in ids:
        found.setdefault(_id_number(own), []).append(own)
    return found


def _id_number(value: Any) -> Any:
    """The number that an id spells, else the id itself."""
    text = value.strip() if isinstance(value, str) else ""
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else value
