"""labelme's own files, a JSON beside each image, in COCO's format.

A `shape` has a `label`, `points` and a `shape_type`. Polygons and masks of one label with the same `group_id` are the
parts of one object. Points and lines have no area.
"""

from __future__ import annotations

import base64
import binascii
import io
import re
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from pix2seq.dataset.annotation_files import parse_json
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.drawings import Drawings, ellipse, mask_at, no_shape, polygons, rectangle
from pix2seq.dataset.images import DAMAGES, MEGAPIXELS
from pix2seq.dataset.layout import ChosenLabels, Layout
from pix2seq.dataset.mending import are_numbers
from pix2seq.dataset.splits import Part, split_folders
from pix2seq.errors import UserError
from pix2seq.runtime.text import read_start

if TYPE_CHECKING:
    from pix2seq.task import Task

HEAD_BYTES = 2**16
SHAPES = re.compile(r'\{.*?"shapes"\s*:\s*\[', re.DOTALL)
TRIED = 20  # JSON files of a folder that are looked at to tell whether they are labelme's
FOLDERS = (".", "annotations", "Annotations", "labels", "json", "jsons")
LINES = ("point", "points", "line", "linestrip")
AREAS = ("polygon", "rectangle", "oriented_rectangle", "circle", "mask")
ALL = "all"  # the split of a folder that has none


class LabelmeLayout(Layout):
    """JSON files of labelme beside their images or in a folder of their own; in folders of the splits, or in one."""

    title = "labelme's JSON"
    takes_images = True

    def __init__(self, root: Path) -> None:
        self.root = root
        places = {name: _labeled_in(folder) for name, folder in split_folders(root).items()}
        self.splits = {name: folder for name, folder in places.items() if folder}
        if not self.splits and (folder := _labeled_in(root)):
            self.splits = {ALL: folder}

    def tasks(self, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Those of `tasks` that are about objects without keypoints."""
        return {name: task for name, task in tasks.items() if task.about_objects and not task.needs_skeleton}

    def describe(self, split: str) -> str:
        return (self.splits[split].relative_to(self.root) / "*.json").as_posix()

    def dataset(self, part: Part, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        folder, root = self.splits[part.split], self.root
        near = [
            folder,
            folder / "images",
            *([] if folder == root else [folder.parent / "images"]),
            root / "images",
            root,
        ]
        chosen = labels.class_names, labels.classes, labels.skeleton
        return ImageDataset(
            images or list(dict.fromkeys(near)), {self.title: partial(read_labelme, folder)}, *chosen, part
        )


def is_labelme(path: Path) -> bool:
    """Whether a JSON is labelme's, as far as its beginning shows."""
    return bool(SHAPES.match(read_start(path, HEAD_BYTES)))


def _labeled_in(folder: Path) -> Path | None:
    """The folder, or one in it, that holds JSON files of labelme."""
    places = (folder / name for name in FOLDERS)
    return next((place for place in places if any(map(is_labelme, sorted(place.glob("*.json"))[:TRIED]))), None)


def read_labelme(folder: Path) -> dict:
    """What the JSON files of labelme in a folder say, in COCO's format; one that cannot be read is left out."""
    drawings = Drawings()
    for path in sorted(folder.glob("*.json")):
        try:
            content = parse_json(path)
            shapes = content.get("shapes") if isinstance(content, dict) else None
            if not isinstance(shapes, list):
                raise UserError(f"{path} has no list of shapes")
        except UserError as error:
            drawings.problems.append(("annotation file that is no JSON of labelme, image left out", str(error)))
            continue
        name, sides = content.get("imagePath"), (content.get("imageWidth"), content.get("imageHeight"))
        name = name.replace("\\", "/") if isinstance(name, str) and name else path.stem
        while name.startswith(("../", "./")):
            name = name.partition("/")[2]
        drawings.add_image(name, dict(zip(("width", "height"), sides, strict=True)))
        _add_shapes(drawings, [shape if isinstance(shape, dict) else {} for shape in shapes])
    return drawings.content()


def _add_shapes(drawings: Drawings, shapes: Sequence[dict]) -> None:
    """The shapes of an image; those of a group are one object."""
    groups: dict[Any, list[dict]] = {}
    for number, shape in enumerate(shapes):
        kind, group = shape.get("shape_type") or "polygon", shape.get("group_id")
        if kind not in AREAS and shape.get("points"):
            drawings.leave_out(kind if kind in LINES else "shape of another kind")
            continue
        entry = _shape(drawings, shape, kind)
        is_part = "segmentation" in entry and isinstance(group, (int, str))
        groups.setdefault((str(shape.get("label")), group) if is_part else number, []).append(
            entry | {"label": shape.get("label")}
        )
    for entries in groups.values():
        label = entries[0].pop("label")
        if len(entries) > 1:
            drawings.add(label, polygons(list(chain.from_iterable(entry["segmentation"] for entry in entries))))
        else:
            drawings.add(label, entries[0])


def _shape(drawings: Drawings, shape: Mapping[str, Any], kind: Any) -> dict:
    points = shape.get("points")
    pairs = isinstance(points, list) and all(isinstance(point, list) and len(point) == 2 for point in points)
    flat = list(chain.from_iterable(points)) if pairs else None
    if flat is None or not are_numbers(flat) or len(flat) < 4:
        return no_shape(points)
    if kind == "rectangle":
        return rectangle(flat)
    if kind == "circle":  # its center, and a point on it
        radius = float(np.hypot(flat[2] - flat[0], flat[3] - flat[1]))
        return ellipse([*flat[:2], radius, radius])
    if kind == "mask":
        return _mask(drawings, shape.get("mask"), flat)
    return polygons([flat])


def _mask(drawings: Drawings, text: Any, ends: Sequence[float]) -> dict:
    """The object of a PNG, written as base64, of the window between two corners."""
    try:
        with Image.open(io.BytesIO(base64.b64decode(text)), formats=("PNG",)) as file:
            pixels = file.width * file.height
            if pixels > MEGAPIXELS * 1e6 or not drawings.has_room(pixels, len(text)):
                return no_shape("too many pixels in masks")
            mask = np.asarray(file.convert("L")) > 0
    except (*DAMAGES, TypeError, binascii.Error):
        return no_shape("a mask")
    return mask_at(mask.astype(np.uint8), min(ends[::2]), min(ends[1::2]))
