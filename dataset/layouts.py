"""What a folder of data is: its layout, and the part of it that a split means."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pix2seq.config import DataCFG
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.coco_layouts import CocoLayout, JsonLayout
from pix2seq.dataset.layout import ChosenLabels, Layout
from pix2seq.dataset.splits import TRAIN, VAL, Part, role_of
from pix2seq.dataset.voc_layouts import VocLayout
from pix2seq.dataset.yolo_layout import find_yolo
from pix2seq.errors import UserError, plain

if TYPE_CHECKING:
    from pix2seq.task import Task

MOST_LOOKED_AT = 20  # folders of one that has no layout itself


@dataclass(frozen=True)
class Found:
    """A part of a data set whose layout is known."""

    root: Path
    layout: Layout
    part: Part

    def tasks(self, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Those of `tasks` for whose annotations the layout has a place in this part."""
        return self.layout.tasks(self.part.split, tasks)

    def dataset(self, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        """Its images with the annotations that `tasks` need; `images` is their folder if they lie elsewhere."""
        if not self.layout.takes_images:
            refuse_images(images, self.layout.title)
        opened = self.layout.dataset(self.part, tasks, images, labels)
        require_images(opened, self.part, str(self.root))
        where = f"{self.root}, {self.layout.title} ({self.layout.describe(self.part.split)})"
        opened.layout = where + self.part.describe()
        return opened


def refuse_images(folder: Path | None, layout: str) -> None:
    """Raise UserError for a folder of images that a flag names although the `layout` has its own."""
    if folder:
        raise UserError(f"--train-images and --val-images are for COCO's format; leave them out, {layout} has its own")


def require_images(opened: ImageDataset, part: Part, name: str) -> None:
    """Raise UserError if of a data set without a validation split nothing can be held out."""
    if part.side == VAL and not len(opened):
        lines = opened.problems.lines()
        found = f" ({plain('; '.join(lines))})" if lines else ""
        raise UserError(
            f"{name} has no validation split, and not two images of which one could be held out{found}; add images, "
            "or name others with --val-json"
        )


def find(root: Path, split: str, data: DataCFG, tasks: Mapping[str, Task], hold_out: bool = True) -> Found | None:
    """What `split` means in the folder `root`: a split of that name or of another name for the same, in the first
    layout that has one. Where the folder has no validation split, that is some images of its only split; with
    `hold_out` these are no training images then. None if nothing is there."""
    layouts = list(_layouts(root, tasks))
    found = _first_with(split, layouts)
    is_val = split == data.val_split != data.train_split
    if is_val or (hold_out and split == data.train_split and may_hold_out(data)):
        validation = found if is_val else _first_with(data.val_split, layouts)
        if not validation and may_hold_out(data) and (whole := _whole(data.train_split, layouts)):
            return Found(root, whole[0], Part(whole[1], VAL if is_val else TRAIN, data.val_share))
    found = found or (_whole(split, layouts) if split == data.train_split else None)
    return Found(root, found[0], Part(found[1])) if found else None


def may_hold_out(data: DataCFG) -> bool:
    """Whether the settings name no special validation split, for which others images would be no replacement."""
    return role_of(data.val_split) == VAL and data.val_split != data.train_split


def _whole(split: str, layouts: Sequence[Layout]) -> tuple[Layout, str] | None:
    """The split that can be cut in two: the training `split`, or the only one there is where that is no special one."""
    if found := _first_with(split, layouts):
        return found
    wholes = ((layout, layout.whole()) for layout in layouts if role_of(split) == TRAIN)
    return next(((layout, name) for layout, name in wholes if name is not None), None)


def _first_with(split: str, layouts: Sequence[Layout]) -> tuple[Layout, str] | None:
    """The first layout with a split, and the split's name in it."""
    return next(((layout, name) for layout in layouts if (name := layout.name_of(split)) is not None), None)


def _layouts(root: Path, tasks: Mapping[str, Task]) -> Iterator[Layout]:
    """The layouts that a folder has, the most telling one first; YOLO's is looked for where there is no other."""
    found = [layout for layout in (CocoLayout(root, tasks), VocLayout(root), JsonLayout(root)) if layout.splits]
    yield from found
    if not found and (yolo := find_yolo(root)):
        yield yolo


def what_is_known(root: Path, tasks: Mapping[str, Task]) -> str:
    """The splits of a folder, or a folder in it that has a layout, as a sentence; empty if there are none."""
    if layouts := list(_layouts(root, tasks)):
        known = "; ".join(f"{layout.title} with {', '.join(map(plain, layout.splits))}" for layout in layouts)
        return f"it has the splits of {known}"
    for folder in [path for path in sorted(root.iterdir()) if path.is_dir()][:MOST_LOOKED_AT]:
        with contextlib.suppress(UserError):
            if layout := next(_layouts(folder, tasks), None):
                return f"its folder {folder.name} has {layout.title}: name {folder}"
    return ""
