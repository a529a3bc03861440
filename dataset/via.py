"""The VGG Image Annotator's own files, version 1 and 2: its project, its JSON and its CSV, in COCO's format.

An image is an entry with `filename` and `regions`; a region has `shape_attributes`, such as {"name": "rect", "x": …},
and `region_attributes`, one of which is the class. The sides of images are not in them.
"""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from pix2seq.dataset.drawings import Drawings, ellipse, no_shape, polygons
from pix2seq.dataset.mending import are_numbers
from pix2seq.errors import UserError, plain, shown
from pix2seq.runtime.text import decode_text
from pix2seq.schema import read_bytes

CLASS = ("class", "classname", "label", "name", "type", "category", "object")  # what people call the class
ONLY_CLASS = "object"  # of regions without attributes
MOST_BYTES = 2**30  # of a table
LINES = ("point", "polyline", "line")
COLUMNS = {"filename", "region_shape_attributes", "region_attributes"}


def is_via(content: Any) -> bool:
    """Whether a JSON is VIA's, of version 1 or 2."""
    images = _images(content)
    return bool(images) and all(isinstance(image, dict) and {"filename", "regions"} <= image.keys() for image in images)


def via_to_coco(content: Mapping[str, Any], path: Path) -> dict:
    """The content of VIA's JSON in COCO's format."""
    return _in_coco([(image["filename"], list(_regions(image["regions"]))) for image in _images(content)], path)


def read_table(path: Path) -> str:
    """The text of a table; raise UserError if it cannot be read."""
    try:
        return decode_text(read_bytes(path, MOST_BYTES), path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({plain(str(error))}); name a table of VIA") from None


def via_csv_to_coco(text: str, path: Path) -> dict:
    """The content of VIA's table, a region a line, in COCO's format."""
    lines = csv.reader(io.StringIO(text.replace("\0", " ")), skipinitialspace=True)
    images: dict[str, list] = {}
    try:
        header = [name.strip().lstrip("#") for name in next(lines, [])]
        if not set(header) >= COLUMNS:
            raise UserError(f"{path} is no table of VIA, whose columns are {', '.join(sorted(COLUMNS))}, and others")
        for values in lines:
            row = dict(zip(header, values, strict=False))
            regions = images.setdefault(row.get("filename", ""), [])
            shape, attributes = (_parsed(row.get(f"region_{name}")) for name in ("shape_attributes", "attributes"))
            if shape or attributes:  # an image without regions has a line, too
                regions.append((shape, attributes))
    except csv.Error as error:
        raise UserError(f"{path} is no table that can be read ({plain(str(error))}); export it again") from None
    return _in_coco(list(images.items()), path)


def _images(content: Any) -> list:
    """The entries of images of a project, or of annotations alone."""
    entries = content.get("_via_img_metadata", content) if isinstance(content, dict) else {}
    return list(entries.values()) if isinstance(entries, dict) else []


def _regions(regions: Any) -> Iterator[tuple[Any, Any]]:
    """The shape and the attributes of each region; version 1 has them by their numbers."""
    for region in regions.values() if isinstance(regions, dict) else regions if isinstance(regions, list) else [None]:
        region = region if isinstance(region, dict) else {}
        yield region.get("shape_attributes"), region.get("region_attributes")


def _parsed(text: str | None) -> Any:
    try:
        return json.loads(text or "{}")
    except (ValueError, RecursionError):
        return text


def _in_coco(images: Iterable[tuple[Any, list[tuple[Any, Any]]]], path: Path) -> dict:
    images = list(images)
    key = _class_attribute([attributes for _, regions in images for _, attributes in regions], path)
    drawings = Drawings()
    for name, regions in images:
        if not isinstance(name, str):
            raise UserError(f"{path} has an image whose filename is {shown(name)}; correct it")
        drawings.add_image(name, {})
        for shape, attributes in regions:
            shape = shape if isinstance(shape, dict) else {}
            if shape.get("name") in LINES:
                drawings.leave_out(shape["name"])
            else:
                drawings.add(_label(attributes, key), _shape(shape))
    return drawings.content()


def _class_attribute(attributes: Iterable[Any], path: Path) -> str | None:
    """The attribute that is the class: the only one, or one that is called so; None if regions have none."""
    names = list(dict.fromkeys(key for entry in attributes if isinstance(entry, dict) for key in entry))
    named = [name for usual in CLASS for name in names if name.casefold() == usual]
    if len(names) > 1 and not named:
        raise UserError(
            f"{path} has regions with the attributes {', '.join(map(plain, names[:5]))}, of which none is called "
            f"{' or '.join(CLASS[:3])}; call the one that is the class so"
        )
    return next(iter(named or names), None)


def _label(attributes: Any, key: str | None) -> Any:
    """The class of a region; of checkboxes the one that is set."""
    if key is None:
        return ONLY_CLASS
    value = attributes.get(key) if isinstance(attributes, dict) else None
    chosen = [name for name, is_set in value.items() if is_set] if isinstance(value, dict) else [value]
    return chosen[0] if len(chosen) == 1 else None


def _shape(shape: Mapping[str, Any]) -> dict:
    kind = shape.get("name")

    def values(*names: str) -> list:
        return [shape.get(name) for name in names]

    if kind == "rect":
        x, y, width, height = values("x", "y", "width", "height")
        return {"bbox": [x, y, width, height]}
    if kind == "circle":
        return ellipse(values("cx", "cy", "r", "r"))
    if kind == "ellipse":
        theta = shape.get("theta", 0)  # in radians
        return ellipse(values("cx", "cy", "rx", "ry"), math.degrees(theta) if are_numbers([theta]) else 0.0)
    xs, ys = values("all_points_x", "all_points_y")
    if not (isinstance(xs, list) and isinstance(ys, list) and len(xs) == len(ys)):
        return no_shape(kind)
    return polygons([[value for point in zip(xs, ys, strict=True) for value in point]])
