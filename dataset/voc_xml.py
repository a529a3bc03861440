"""An annotation file of Pascal VOC, as its own tools, labelImg, Roboflow and roLabelImg write it."""

from __future__ import annotations

import math
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pix2seq.dataset.drawings import polygons, rectangle
from pix2seq.errors import plain
from pix2seq.runtime.text import parse_xml
from pix2seq.schema import read_bytes

CORNERS = ("xmin", "ymin", "xmax", "ymax")
COORDINATE = re.compile(r"[xy]\d*")  # tags in a polygon: x1, y1, x2, …, or x and y of each point
SWAPPED = "box whose corners are in the wrong order, put in order"
COMMA = "box with a comma for the decimal point"
FLOATS = r"\s*([-+]?\d+),(\d+)\s*"


@dataclass(frozen=True)
class VocXml:
    """The sides of an image where they are known, the name of its file, and its objects in COCO's format, with their
    names, `remarks` about them, and whether their corners are `fractions` of a pixel."""

    sides: dict[str, int]
    filename: str
    objects: list[dict[str, Any]]


def parse_voc(path: Path) -> VocXml | str:
    """The content of an annotation file, or a description of what is wrong with it."""
    try:
        root = parse_xml(read_bytes(path))
    except FileNotFoundError:
        return "image without an annotation file, left out"
    except UnicodeError as error:
        return f"annotation file that is not in its encoding {error}, image left out"
    except (ET.ParseError, OSError, ValueError):
        return "annotation file that is not XML, image left out"
    sides = {side: _number(root.find(f"size/{side}")) for side in ("width", "height")}
    sound = {side: int(value) for side, value in sides.items() if value and value > 0}
    return VocXml(
        sound, (root.findtext("filename") or "").strip(), [_object(entry) for entry in root.findall("object")]
    )


def _object(entry: ET.Element) -> dict[str, Any]:
    found: dict[str, Any] = {
        "name": plain(entry.findtext("name") or ""),
        "difficult": (entry.findtext("difficult") or "").strip() == "1",
    }
    found |= {"bbox": None, "remarks": [], "fractions": False} | _outline(entry)
    texts = [entry.findtext(f"bndbox/{name}") for name in CORNERS]
    ends = [_number(entry.find(f"bndbox/{name}")) for name in CORNERS]
    if None in ends:
        return found
    (left, right), (top, bottom) = sorted(ends[::2]), sorted(ends[1::2])
    if [left, top, right, bottom] != ends:
        found["remarks"].append(SWAPPED)
    if any("," in text for text in texts):
        found["remarks"].append(COMMA)
    return found | {"bbox": [left - 1, top - 1, right - left + 1, bottom - top + 1], "fractions": max(ends) <= 1}


def _outline(entry: ET.Element) -> dict[str, Any]:
    """The polygon of an object, or its turned box, if it has one."""
    polygon, turned = entry.find("polygon"), entry.find("robndbox")
    if polygon is not None:
        numbers = [_number(part) for part in polygon.iter() if COORDINATE.fullmatch(part.tag)]
        return {"segmentation": polygons([numbers]).get("segmentation", [])}
    if turned is None:
        return {}
    x, y, width, height, angle = (_number(turned.find(name)) for name in ("cx", "cy", "w", "h", "angle"))
    if None in (x, y, width, height, angle):
        return {}
    ends = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
    return rectangle(ends, math.degrees(angle))


def _number(element: ET.Element | None) -> float | None:
    try:
        number = float(re.sub(FLOATS, r"\1.\2", element.text))
    except (AttributeError, TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
