"""Where annotation files in COCO's format lie: in COCO's own folders, or anywhere, as CVAT, Roboflow and Label Studio
write them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.dataset.annotation_files import read_annotations
from pix2seq.dataset.coco import CocoDataset, ImageDataset, annotation_path
from pix2seq.dataset.layout import ChosenLabels, Layout
from pix2seq.dataset.splits import Part, role_in, role_of, split_folders
from pix2seq.schema import read_head

if TYPE_CHECKING:
    from pix2seq.task import Task

HEAD_BYTES = 2**20  # of a JSON that are looked at to tell what it is
ROBOFLOW = "_annotations.coco.json"
COCO_S_OWN = re.compile(r"(instances|person_keypoints|captions|panoptic|stuff|image_info)_")  # one of several files
LISTS = re.compile(r'\{.*?"(images|annotations)"\s*:\s*\[', re.DOTALL)


class CocoLayout(Layout):
    """`annotations/instances_SPLIT.json` and others, one for each kind of annotation; CVAT's COCO export, too."""

    title = "COCO's layout"
    takes_images = True

    def __init__(self, root: Path, tasks: Mapping[str, Task]) -> None:
        self.root = root
        self.splits: dict[str, None] = {}
        for kind in dict.fromkeys(task.samples.COCO_FILE for task in tasks.values()):
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


class JsonLayout(Layout):
    """One JSON with all annotations of a split, near its images: `train.json`, `annotations/val.json`, Roboflow's
    `train/_annotations.coco.json`, Label Studio's `result.json`."""

    takes_images = True

    def __init__(self, root: Path, named: Mapping[str, Path] | None = None) -> None:
        """`named` are the files of the splits if they are not looked for."""
        self.root = root
        self.splits: dict[str, Path] = dict(named) if named else self._find_splits(root)

    def _find_splits(self, root: Path) -> dict[str, Path]:
        splits: dict[str, Path] = {}
        for path in _json_files(root):
            splits.setdefault(path.stem, path)
        for name in list(splits):
            role = role_in(name)
            if role and not any(role_of(other) == role for other in splits):
                splits[role[0]] = splits.pop(name)
        for name, folder in split_folders(root).items():
            inside = sorted(folder.glob("*.json"), key=lambda path: (path.name != ROBOFLOW, path.name))
            if first := next((path for path in inside if looks_like_coco(path)), None):
                splits.setdefault(name, first)
        return splits

    @property
    def title(self) -> str:
        roboflow = any(path.name == ROBOFLOW for path in self.splits.values())
        return "Roboflow's COCO export" if roboflow else "JSON in COCO's format"

    def tasks(self, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """All `tasks`: the file may hold every kind of annotation."""
        return dict(tasks)

    def describe(self, split: str) -> str:
        path = self.splits[split]
        return path.relative_to(self.root).as_posix() if path.is_relative_to(self.root) else str(path)

    def dataset(self, part: Part, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        path, root = self.splits[part.split], self.root
        near = (path.parent, path.with_suffix(""), path.parent / "images", root / path.stem, root, root / "images")
        read = {path.name: partial(read_annotations, path)}
        chosen = labels.class_names, labels.classes, labels.skeleton
        return ImageDataset(images or list(dict.fromkeys(near)), read, *chosen, part)


def _json_files(root: Path) -> list[Path]:
    """The files in COCO's format in a folder or its `annotations`, but for COCO's own kinds there, which CocoLayout
    reads together."""
    below = (path for path in sorted((root / "annotations").glob("*.json")) if not COCO_S_OWN.match(path.name))
    found = [*sorted(root.glob("*.json"), key=lambda path: (not path.name.startswith("instances"), path.name)), *below]
    return list(filter(looks_like_coco, found))


def looks_like_coco(path: Path) -> bool:
    """Whether a JSON has one of COCO's lists, as far as its beginning shows. One that is named after a split is what it
    should be: that it cannot be read is to be told."""
    if role_in(path.stem):
        return path.is_file()
    head = read_head(path, HEAD_BYTES)
    encoding = "utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig"
    return bool(LISTS.match(head.decode(encoding, "replace").lstrip()))
