"""CVAT's own XML, *CVAT for images 1.1*, in COCO's format.

An `image` has `name`, `width`, `height` and perhaps `subset`; in it are `box`, `polygon`, `ellipse`, `mask` and
`skeleton`, each with a `label`. Points and polylines have no area, and tags are of whole images.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import numpy as np

from pix2seq.dataset.drawings import Drawings, ellipse, mask_at, no_shape, numbers_of, polygons, rectangle
from pix2seq.dataset.images import MEGAPIXELS
from pix2seq.errors import UserError, plain
from pix2seq.runtime.text import parse_xml
from pix2seq.schema import read_bytes

MOST_BYTES = 2**30  # of a file
NO_AREA = ("points", "polyline", "cuboid")


def parse_cvat(path: Path) -> ET.Element:
    """The root of CVAT's XML; raise UserError if it is none."""
    try:
        root = parse_xml(read_bytes(path, MOST_BYTES))
    except FileNotFoundError:
        raise UserError(f"there is no annotation file {path}; check --train-json and --val-json") from None
    except (ET.ParseError, OSError, ValueError) as error:
        raise UserError(f"{path} is no XML that can be read ({plain(str(error))}); export it again") from None
    if root.tag != "annotations":
        raise UserError(f"{path} is no XML of CVAT; expected CVAT for images 1.1")
    if root.find("track") is not None:
        raise UserError(f"{path} is CVAT for video; export the task as CVAT for images 1.1, or as COCO")
    return root


def subsets_of(root: ET.Element) -> list[str]:
    """The subsets that images of a project belong to, in order; none if all belong to one."""
    found = list(dict.fromkeys(image.get("subset", "") for image in root.iter("image")))
    return found if len(found) > 1 and all(found) else []


def cvat_to_coco(root: ET.Element, subset: str = "") -> dict:
    """The content of CVAT's XML, or of a subset of it, in COCO's format."""
    labels = [label for label in root.iter("label") if label.findtext("name")]
    own = [label for label in labels if not label.findtext("parent")]
    parts: dict[str, list[str]] = {}  # the points of skeletons by their classes
    for label in labels:
        if parent := label.findtext("parent"):
            parts.setdefault(plain(parent), []).append(label.findtext("name").strip())
    for skeleton in root.iter("skeleton"):
        names = parts.setdefault(plain(skeleton.get("label") or ""), [])
        names += [name for point in skeleton.iter("points") if (name := _name(point)) not in names]
    categories = {name: {"keypoints": points} for name, points in parts.items() if points}
    drawings = Drawings([plain(label.findtext("name")) for label in own], categories)
    for image in root.iter("image"):
        if not subset or image.get("subset") == subset:
            sides = {side: int(value) for side in ("width", "height") if (value := image.get(side, "")).isdecimal()}
            drawings.add_image(image.get("name", ""), sides)
            for shape in image:
                _add(drawings, shape, parts)
    return drawings.content()


def _add(drawings: Drawings, shape: ET.Element, parts: dict[str, list[str]]) -> None:
    label = shape.get("label")
    if shape.tag == "box":
        drawings.add(label, rectangle(_attributes(shape, "xtl", "ytl", "xbr", "ybr"), _turn(shape)))
    elif shape.tag == "polygon":
        drawings.add(label, polygons([_points(shape)]))
    elif shape.tag == "ellipse":
        drawings.add(label, ellipse(_attributes(shape, "cx", "cy", "rx", "ry"), _turn(shape)))
    elif shape.tag == "mask":
        drawings.add(label, _mask(drawings, shape))
    elif shape.tag == "skeleton":
        drawings.add(label, _skeleton(shape, parts.get(plain(label or ""), [])))
    elif shape.tag in NO_AREA:
        drawings.leave_out(shape.tag)


def _attributes(element: ET.Element, *names: str) -> list[str | None]:
    return [element.get(name) for name in names]


def _turn(shape: ET.Element) -> float:
    """By how many degrees a shape is turned clockwise."""
    return (numbers_of([shape.get("rotation", "0")]) or [0.0])[0]


def _points(shape: ET.Element) -> list[str]:
    """The numbers of `x,y;x,y`."""
    return shape.get("points", "").replace(";", ",").split(",")


def _mask(drawings: Drawings, shape: ET.Element) -> dict:
    """The object of run lengths over the rows of a window, of background first."""
    place = numbers_of(_attributes(shape, "left", "top", "width", "height"), 4)
    text = shape.get("rle", "")
    runs = numbers_of(text.split(","), 1)
    if not place or not runs or min(runs) < 0 or min(place[2:]) < 1:
        return no_shape("run lengths")
    left, top, width, height = map(int, place)
    counts = np.array(runs).astype(np.int64)
    if width * height > MEGAPIXELS * 1e6 or max(runs) > width * height or counts.sum() != width * height:
        return no_shape("run lengths that do not fill their window")
    if not drawings.has_room(width * height, len(text)):
        return no_shape("too many pixels in masks")
    mask = np.repeat(np.arange(len(counts), dtype=np.uint8) % 2, counts).reshape(height, width)
    return mask_at(mask, left, top)


def _skeleton(shape: ET.Element, names: list[str]) -> dict:
    """The keypoints of a skeleton in the order of `names`, and the box around those that are there."""
    found: dict[str, list[Any]] = {}
    for point in shape.iter("points"):
        place = numbers_of(_points(point), 2)
        if place and point.get("outside") != "1":
            found[_name(point)] = [*place[:2], 1 if point.get("occluded") == "1" else 2]
    if not found:
        return no_shape("a skeleton without points")
    ends = [value for x, y, _ in found.values() for value in (x, y)] * 2  # of a single point, too
    keypoints = [value for name in names for value in found.get(name, (0, 0, 0))]
    return rectangle(ends) | {"keypoints": keypoints}


def _name(point: ET.Element) -> str:
    return (point.get("label") or "").strip()
