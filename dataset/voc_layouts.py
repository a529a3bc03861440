"""Where Pascal VOC's XML lies: in VOC's own folders, or beside images, as Roboflow and labelImg write it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.layout import ChosenLabels, Layout
from pix2seq.dataset.splits import Part, split_folders
from pix2seq.dataset.voc import VOC_FILE, ImageSet, VocDataset, find_voc_folders, has_image_sets
from pix2seq.runtime.text import read_start

if TYPE_CHECKING:
    from pix2seq.task import Task

HEAD_BYTES = 4096  # of an XML that tell whether it is one of VOC's
ROOT = re.compile(r"<annotation\b")
ALL = "all"  # the split of a folder that has none


class VocLayout(Layout):
    """`JPEGImages`, `Annotations` and lists in `ImageSets/Main`, in the root or in folders of the years below it; all
    images that have an XML where there is no list. Or XML beside or near images, in folders of the splits or in one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folders = find_voc_folders(root)
        self.sets = {} if self.folders else _sets_beside_images(root)
        self.title = "Pascal VOC's layout" if self.folders else "Pascal VOC's XML beside images"
        lists = sorted(path for folder in self.folders for path in (folder / "ImageSets" / "Main").glob("*.txt"))
        stems = [path.stem for path in lists]
        self.splits = [stem for stem in dict.fromkeys(stems) if stem.rpartition("_")[2] not in stems or "_" not in stem]
        if len(self.folders) == 1 and not lists:
            self.sets = {ALL: ImageSet.of_voc(self.folders[0], None)}
        self.splits += self.sets

    def name_of(self, split: str) -> str | None:
        if self.folders and has_image_sets(self.root, split):
            return split
        return super().name_of(split) if len(self.folders) < 2 else None

    def whole(self) -> str | None:
        return super().whole() if len(self.folders) < 2 else None

    def tasks(self, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Those of `tasks` for whose annotations the layout has a place."""
        return {name: task for name, task in tasks.items() if task.samples.COCO_FILE == VOC_FILE}

    def describe(self, split: str) -> str:
        if split in self.sets:
            return self.sets[split].annotations.relative_to(self.root).as_posix() + "/*.xml"
        return f"ImageSets/Main/{split}.txt"

    def dataset(self, part: Part, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        sets = [self.sets[part.split]] if part.split in self.sets else []
        chosen = labels.class_names, labels.classes, labels.skeleton
        return VocDataset(self.root, part.split, tasks, *chosen, sets, part)


def _sets_beside_images(root: Path) -> dict[str, ImageSet]:
    """The folders named after splits that hold XML, else the root, or a folder of it, as one split."""
    splits = {name: _set_in(folder) for name, folder in split_folders(root).items()}
    found = {name: group for name, group in splits.items() if group}
    if not found and (group := _set_in(root)):
        found = {ALL: group}
    return found


def _set_in(folder: Path) -> ImageSet | None:
    """The images of a folder, or of its `images`, with XML beside them or in a folder of their own."""
    names = ("annotations", "Annotations", "labels", "xmls", "annotations/xmls", ".")
    annotations = next((folder / name for name in names if _holds_voc_xml(folder / name)), None)
    if annotations is None:
        return None
    places = ("images", "JPEGImages", "Images")
    images = next((folder / name for name in places if (folder / name).is_dir()), folder)
    return ImageSet(images, annotations, folder / "SegmentationObject")


def _holds_voc_xml(folder: Path) -> bool:
    path = next(iter(sorted(folder.glob("*.xml"))), None) if folder.is_dir() else None
    return path is not None and bool(ROOT.search(read_start(path, HEAD_BYTES)))
