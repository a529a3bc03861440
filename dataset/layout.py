"""What every layout of a folder of data answers: which splits it has, and the images of a part of one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.dataset.splits import Part, name_in, whole_of

if TYPE_CHECKING:
    from pix2seq.task import Task


@dataclass(frozen=True)
class ChosenLabels:
    """The classes and keypoints that images are opened with: `class_names` and `skeleton` of a model or of the training
    images, else the dataset's own, and the `classes` that were chosen by name (none: all)."""

    class_names: Mapping[int, str] | None = None
    classes: Sequence[str] = ()
    skeleton: Skeleton | None = None


class Layout:
    """A folder `root` whose layout is known: its `title`, and its `splits` by their names."""

    root: Path
    title: str
    splits: Mapping[str, Any]
    takes_images = False  # whether images may lie in another folder, which a flag names

    def name_of(self, split: str) -> str | None:
        """The name that `split` has here; None if it is not there."""
        return name_in(split, self.splits)

    def whole(self) -> str | None:
        """The split that can be cut in two for validation; None if there is none."""
        return whole_of(self.splits)

    def tasks(self, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Those of `tasks` for whose annotations the layout has a place."""
        raise NotImplementedError

    def describe(self, split: str) -> str:
        """Where the split lies, in words."""
        raise NotImplementedError

    def dataset(self, part: Part, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        """The images of a part with the annotations that `tasks` need; `images` is another folder where they lie."""
        raise NotImplementedError
