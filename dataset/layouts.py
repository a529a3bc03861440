"""What a folder of data is: its layout, and the part of it that a split means."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.config import DataCFG
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.coco_layouts import CocoLayout, FileLayout
from pix2seq.dataset.foreign import what_is_there
from pix2seq.dataset.labelme import LabelmeLayout
from pix2seq.dataset.layout import ChosenLabels, Layout
from pix2seq.dataset.shard_format import INDEX
from pix2seq.dataset.shards import ShardLayout
from pix2seq.dataset.splits import TRAIN, VAL, Part, role_of
from pix2seq.dataset.voc_layouts import VocLayout
from pix2seq.dataset.yolo_layout import find_yolo
from pix2seq.errors import UserError, plain

if TYPE_CHECKING:
    from pix2seq.task import Task

MOST_LOOKED_AT = 20  # folders of one that has no layout itself


@dataclass(frozen=True)
class Found:
    """A part of a dataset whose layout is known."""

    root: Path
    layout: Layout
    part: Part

    def tasks(self, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Those of `tasks` for whose annotations the layout has a place in this part."""
        return self.layout.tasks(self.part.split, tasks)

    def dataset(
        self, data: DataCFG, tasks: Mapping[str, Task], labels: ChosenLabels, images: Path | None = None
    ) -> ImageDataset:
        """Its images with the annotations that `tasks` need; `images` is their folder if they lie elsewhere."""
        if not self.layout.takes_images:
            refuse_images(images, self.layout.title)
        opened = self.layout.dataset(self.part, tasks, images, labels)
        require_images(opened, self.part, str(self.root))
        where = f"{self.root}, {self.layout.title} ({self.layout.describe(self.part.split)})"
        opened.layout = where + self.part.describe()
        opened.root, opened.may_leave = self.root, data.outside_images
        return opened


def refuse_images(folder: Path | None, layout: str) -> None:
    """Raise UserError for a folder of images that a flag names although the `layout` has its own."""
    if folder:
        raise UserError(f"--train-images and --val-images are for COCO's format; leave them out, {layout} has its own")


def require_images(opened: ImageDataset, part: Part, name: str) -> None:
    """Raise UserError if of a dataset without a validation split nothing can be held out."""
    if part.side == VAL and not len(opened):
        lines = opened.problems.lines()
        found = f" ({plain('; '.join(lines))})" if lines else ""
        raise UserError(
            f"{name} has no validation split, and not two images of which one could be held out{found}; add images, "
            "or name others with --val-json"
        )


class DataFolder:
    """A folder of data, whose layouts are looked for once, when they are first asked about."""

    def __init__(self, root: Path, data: DataCFG, tasks: Mapping[str, Task]) -> None:
        self.root, self.data, self.tasks = root, data, tasks

    @cached_property
    def layouts(self) -> list[Layout]:
        """The layouts that the folder has, the most telling one first; YOLO's is looked for where there is no other."""
        root = self.root
        if (root / INDEX).exists():
            return [ShardLayout(root, self.data)]
        found: list[Layout] = [CocoLayout(root, self.tasks), VocLayout(root), FileLayout(root), LabelmeLayout(root)]
        found = [layout for layout in found if layout.splits]
        return found or list(filter(None, [find_yolo(root)]))

    def find(self, split: str, hold_out: bool = True) -> Found | None:
        """What `split` means here: a split of that name or of another name for the same, in the first layout that has
        one. Where the folder has no validation split, that is some images of its only split; with `hold_out` these are
        no training images then. None if nothing is there."""
        data, found = self.data, self._first_with(split)
        is_val = split == data.val_split != data.train_split
        if is_val or (hold_out and split == data.train_split and may_hold_out(data)):
            validation = found if is_val else self._first_with(data.val_split)
            if not validation and may_hold_out(data) and (whole := self._whole(data.train_split)):
                return Found(self.root, whole[0], Part(whole[1], VAL if is_val else TRAIN, data.val_share))
        found = found or (self._whole(split) if split == data.train_split else None)
        return Found(self.root, found[0], Part(found[1])) if found else None

    def require(self, split: str, hold_out: bool = True) -> Found:
        """What `find` finds; raise UserError if that is nothing."""
        if found := self.find(split, hold_out):
            return found
        raise UserError(self._not_found(split))

    def _whole(self, split: str) -> tuple[Layout, str] | None:
        """The split that can be cut in two: the training `split`, or the only one there is where that is no special
        one."""
        if found := self._first_with(split):
            return found
        wholes = ((layout, layout.whole()) for layout in self.layouts if role_of(split) == TRAIN)
        return next(((layout, name) for layout, name in wholes if name is not None), None)

    def _first_with(self, split: str) -> tuple[Layout, str] | None:
        """The first layout with a split, and the split's name in it."""
        return next(((layout, name) for layout in self.layouts if (name := layout.name_of(split)) is not None), None)

    def _not_found(self, split: str) -> str:
        """Why there is no dataset in the folder, and what was looked for."""
        root = self.root
        if not root.is_dir():
            what = "is a file: name the folder that it is in" if root.exists() else "is not there: check the path"
            return f"found no dataset: --data-root expects a folder, {root} {what}"
        file = next(iter(self.tasks.values())).samples.COCO_FILE
        there = self._what_is_known() or what_is_there(root)
        return (
            f"found no dataset for the split {split!r} at --data-root {root}{there and f': {there}'}; looked for "
            f"COCO's annotations/{file}_{split}.json, Pascal VOC's JPEGImages/ and Annotations/ there or one or two "
            f"folders below, {split}.json or another JSON in COCO's format, and YOLO's data.yaml, obj.data or labels/; "
            "name files with --train-json and --val-json, or splits with --train-split and --val-split"
        )

    def _what_is_known(self) -> str:
        """The splits of the folder, or a folder in it that has a layout, as a sentence; empty if there are none."""
        if self.layouts:
            known = "; ".join(f"{layout.title} with {', '.join(map(plain, layout.splits))}" for layout in self.layouts)
            return f"it has the splits of {known}"
        for folder in [path for path in sorted(self.root.iterdir()) if path.is_dir()][:MOST_LOOKED_AT]:
            with contextlib.suppress(UserError):
                if layouts := DataFolder(folder, self.data, self.tasks).layouts:
                    return f"its folder {folder.name} has {layouts[0].title}: name {folder}"
        return ""


def may_hold_out(data: DataCFG) -> bool:
    """Whether the settings name no special validation split, for which others images would be no replacement."""
    return role_of(data.val_split) == VAL and data.val_split != data.train_split
