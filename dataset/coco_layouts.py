"""Where files with all annotations of a split lie: in COCO's own folders, or anywhere, as CVAT, Roboflow, Label Studio
and VIA write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.dataset.annotation_files import read_annotations
from pix2seq.dataset.coco import CocoDataset, ImageDataset, annotation_path
from pix2seq.dataset.cvat import parse_cvat, subsets_of
from pix2seq.dataset.labelme import is_labelme
from pix2seq.dataset.labels import files_for
from pix2seq.dataset.layout import ChosenLabels, Layout
from pix2seq.dataset.splits import Part, role_in, role_of, split_folders
from pix2seq.runtime.text import read_start

if TYPE_CHECKING:
    from pix2seq.task import Task

HEAD_BYTES = 2**20  # of a JSON that are looked at to tell what it is
ROBOFLOW = "_annotations.coco.json"
COCO_S_OWN = re.compile(r"(instances|person_keypoints|captions|panoptic|stuff|image_info)_")  # one of several files
KINDS = {".xml": "CVAT's XML", ".csv": "VIA's table"}  # of files that are no JSON
COCO_LISTS = re.compile(r'\{.*?"(images|annotations)"\s*:\s*\[', re.DOTALL)
VIA_IMAGES = re.compile(r'\{.*?("_via_img_metadata"|"regions")\s*:\s*[\[{]', re.DOTALL)
VIA_COLUMNS = re.compile(r"^#?filename\s*,.*region_shape_attributes")
CVAT_ROOT = re.compile(r"<annotations\b")


class CocoLayout(Layout):
    """`annotations/instances_SPLIT.json` and others, one for each kind of annotation; CVAT's COCO export, too."""

    title = "COCO's layout"
    takes_images = True

    def __init__(self, root: Path, tasks: Mapping[str, Task]) -> None:
        self.root = root
        self.splits: dict[str, None] = {}
        for kind in files_for(tasks):
            names = sorted((root / "annotations").glob(f"{kind}_*.json"))
            self.splits |= dict.fromkeys(path.stem.removeprefix(f"{kind}_") for path in names)

    def tasks(self, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Those of `tasks` whose annotation file is there."""
        return {name: t for name, t in tasks.items() if self._path(t, split).is_file()}

    def _path(self, task: Task, split: str) -> Path:
        return annotation_path(self.root, task.samples.COCO_FILE, split)

    def describe(self, split: str) -> str:
        return f"annotations/*_{split}.json"

    def dataset(self, part: Part, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        near = None
        if not (self.root / part.split).is_dir():
            near = [self.root / "images" / part.split, self.root / "images", self.root]
        chosen = labels.class_names, labels.classes, images or near, labels.skeleton
        return CocoDataset(self.root, part.split, tasks, *chosen, part)


class FileLayout(Layout):
    """One file with all annotations of a split, near its images: `train.json`, `annotations/val.json`, Roboflow's
    `train/_annotations.coco.json`, Label Studio's `result.json`, CVAT's `annotations.xml`, the project or table of VIA.
    The subsets of CVAT's file are splits."""

    takes_images = True

    def __init__(self, root: Path, named: Mapping[str, Path] | None = None) -> None:
        """`named` are the files of the splits if they are not looked for."""
        self.root = root
        self.splits: dict[str, tuple[Path, str]] = {}
        for name, path in named.items() if named else _files_of_splits(root).items():
            subsets = subsets_of(parse_cvat(path)) if path.suffix.lower() == ".xml" and not named else []
            self.splits |= {subset: (path, subset) for subset in subsets} or {name: (path, "")}

    @property
    def title(self) -> str:
        paths = [path for path, _ in self.splits.values()]
        return "Roboflow's COCO export" if any(path.name == ROBOFLOW for path in paths) else _kind(paths[0])

    def tasks(self, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """All `tasks`: the file may hold every kind of annotation."""
        return dict(tasks)

    def describe(self, split: str) -> str:
        path, subset = self.splits[split]
        where = path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)
        return f"{where}, {subset}" if subset else where

    def dataset(self, part: Part, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        (path, subset), root = self.splits[part.split], self.root
        near = [path.parent, path.with_suffix(""), path.parent / "images", root / path.stem, root, root / "images"]
        near += [root / "images" / part.split] if subset else []
        read = {path.name: partial(read_annotations, path, subset)}
        chosen = labels.class_names, labels.classes, labels.skeleton
        return ImageDataset(images or list(dict.fromkeys(near)), read, *chosen, part)


def _kind(path: Path) -> str:
    """What a file of annotations is called."""
    if path.suffix.lower() in KINDS:
        return KINDS[path.suffix.lower()]
    return "VIA's JSON" if VIA_IMAGES.match(read_start(path, HEAD_BYTES)) else "JSON in COCO's format"


def _files_of_splits(root: Path) -> dict[str, Path]:
    """The files of the splits of a folder: named after these, or in folders that are."""
    splits: dict[str, Path] = {}
    for path in _annotation_files(root):
        splits.setdefault(path.stem, path)
    for name in list(splits):
        role = role_in(name)
        if role and not any(role_of(other) == role for other in splits):
            splits[role[0]] = splits.pop(name)
    for name, folder in split_folders(root).items():
        inside = sorted(_candidates(folder), key=lambda path: (path.name != ROBOFLOW, path.name))
        if first := next((path for path in inside if holds_annotations(path)), None):
            splits.setdefault(name, first)
    return splits


def _annotation_files(root: Path) -> list[Path]:
    """The files in a folder or its `annotations` that hold annotations, but for COCO's own kinds there, which
    CocoLayout reads together."""
    below = (path for path in _candidates(root / "annotations") if not COCO_S_OWN.match(path.name))
    found = [*sorted(_candidates(root), key=lambda path: (not path.name.startswith("instances"), path.name)), *below]
    return list(filter(holds_annotations, found))


def _candidates(folder: Path) -> list[Path]:
    return sorted(path for suffix in (".json", *KINDS) for path in folder.glob(f"*{suffix}"))


def holds_annotations(path: Path) -> bool:
    """Whether a file is COCO's, VIA's or CVAT's, as far as its beginning shows. A JSON that is named after a split is
    what it should be, unless it is labelme's: that it cannot be read is to be told."""
    text = read_start(path, HEAD_BYTES)
    if path.suffix.lower() == ".json":
        if role_in(path.stem):
            return path.is_file() and not is_labelme(path)
        return bool(COCO_LISTS.match(text) or VIA_IMAGES.match(text))
    return bool((CVAT_ROOT if path.suffix.lower() == ".xml" else VIA_COLUMNS).search(text))
