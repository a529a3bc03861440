"""Several datasets as one: classes and keypoints are matched by name, each image keeps what its source labels."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.dataset.annotations import MAX_CLASSES, Problems
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.labels import Unlabeled
from pix2seq.dataset.skeleton import default_skeleton, join_skeletons
from pix2seq.errors import UserError
from pix2seq.names import match_names

if TYPE_CHECKING:
    from pix2seq.dataset.shard_files import StoredFile
    from pix2seq.task import Task


@dataclass(frozen=True)
class Source:
    """The dataset in the folder `root`: `name` tells it from others; an epoch has each of its images `weight` times."""

    name: str
    root: Path
    dataset: ImageDataset
    weight: float = 1.0


class Mixture:
    """What SampleDataset and the training use of an ImageDataset, over several `sources`: their images, one after the
    other. Images of different sources may have equal ids and file names."""

    complete = True
    to_draw = 0
    caption_words: Sequence[str] = ()

    def __init__(self, sources: Sequence[Source]) -> None:
        """The datasets must have the same `class_names` and `skeleton` (see `share_labels`)."""
        self.sources = tuple(sources)
        first = self.sources[0].dataset
        for source in self.sources:
            if source.dataset.skeleton.names != first.skeleton.names:
                raise UserError(f"{source.name} names other keypoints than the training images; correct its categories")
        self.class_names, self.skeleton = first.class_names, first.skeleton
        self.category_ids = _category_ids([source.dataset for source in self.sources])
        self.folder = ", ".join(str(source.root) for source in self.sources)
        self._number_images()

    def _number_images(self) -> None:
        self.images = [entry for source in self.sources for entry in source.dataset.images]
        self._ends = list(itertools.accumulate(len(source.dataset) for source in self.sources))

    def __len__(self) -> int:
        return len(self.images)

    def locate(self, index: int) -> tuple[Source, int]:
        """The source of an image, and the image's index there."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        return self.sources[number], index - ([0, *self._ends][number])

    @property
    def problems(self) -> Problems:
        """Those of all sources."""
        merged = Problems()
        for source in self.sources:
            for kind, count in source.dataset.problems.counts.items():
                merged.counts[kind] = merged.counts.get(kind, 0) + count
                merged.first.setdefault(kind, f"{source.name}: {source.dataset.problems.first[kind]}")
        return merged

    def indices_for(self, tasks: Iterable[Task], with_difficult: bool = True) -> list[int]:
        """Indices of the images that at least one of `tasks` can be trained on."""
        tasks, starts = list(tasks), [0, *self._ends]
        found = (source.dataset.indices_for(tasks, with_difficult) for source in self.sources)
        return [start + index for start, indices in zip(starts, found, strict=False) for index in indices]

    def annotations(self, index: int) -> tuple[list[dict], list[str]]:
        """The valid objects of an image, without crowds, and its captions."""
        source, number = self.locate(index)
        return source.dataset.annotations(number)

    def unlabeled_in(self, index: int) -> Unlabeled:
        """What the annotations of an image say nothing about."""
        source, number = self.locate(index)
        return source.dataset.unlabeled_in(number)

    def all_captions(self) -> list[str]:
        """Every caption of all sources."""
        return [text for source in self.sources for text in source.dataset.all_captions()]

    def name_of(self, index: int) -> str:
        """The image's source and file name."""
        source, number = self.locate(index)
        return f"{source.name}/{source.dataset.name_of(number)}"

    def path(self, index: int) -> Path:
        """The path of an image file."""
        source, number = self.locate(index)
        return source.dataset.path(number)

    def shard_numbers(self) -> np.ndarray:
        """Which of the `shard_files` of all sources each image (n,) is in; -1: it is a file of its own."""
        found, first = [], 0
        for dataset in (source.dataset for source in self.sources):
            numbers = dataset.shard_numbers()
            found.append(np.where(numbers < 0, numbers, numbers + first))
            first += len(dataset.shard_files)
        return np.concatenate(found)

    @property
    def shard_files(self) -> list[StoredFile]:
        """Those of all sources."""
        return [file for source in self.sources for file in source.dataset.shard_files]

    def read_pixels(self, index: int, shrink: int = 1) -> tuple[np.ndarray, int]:
        """The pixels of an image; see ImageDataset."""
        source, number = self.locate(index)
        return source.dataset.read_pixels(number, shrink)

    def target(self, index: int) -> Example:
        """The example of an image without its pixels."""
        source, number = self.locate(index)
        return source.dataset.target(number)

    def load(self, index: int, shrink: int = 1) -> Example:
        """The example of an image; see ImageDataset."""
        source, number = self.locate(index)
        return source.dataset.load(number, shrink)

    def __getitem__(self, index: int) -> Example:
        return self.load(index)

    def leave_out_unreadable(self) -> None:
        """Leave out images whose file is missing or no image; raise UserError if a source has no other."""
        for source in self.sources:
            source.dataset.leave_out_unreadable()
        self._number_images()

    def keep_decoded(self, shrinks: Sequence[int], limit_gb: float) -> None:
        """Cache decoded images on disk, one cache a source: the first images up to `limit_gb` in all."""
        for source, start, end in zip(self.sources, [0, *self._ends], self._ends, strict=False):
            source.dataset.keep_decoded(shrinks[start:end], limit_gb)
            limit_gb -= source.dataset.cache.size / 1e9


def _category_ids(datasets: Sequence[ImageDataset]) -> dict[int, int]:
    """Category ids for results by class id: that of the first dataset with the class, or a free one if it is taken."""
    found: dict[int, int] = {}
    for dataset in datasets:
        for class_id, category_id in dataset.category_ids.items():
            if class_id not in found:
                taken = set(found.values())
                free = itertools.chain((category_id, class_id), itertools.count(1))
                found[class_id] = next(number for number in free if number not in taken)
    return found


def sources_of(examples: ImageDataset | Mixture) -> tuple[Source, ...]:
    """The sources of a mixture, or the one that a dataset is."""
    if isinstance(examples, ImageDataset):
        return (Source(examples.folder.name, examples.folder, examples),)
    return examples.sources


def datasets_of(examples: ImageDataset | Mixture) -> list[ImageDataset]:
    """Those of all sources."""
    return [source.dataset for source in sources_of(examples)]


def teaches(dataset: ImageDataset, task: Task) -> bool:
    """Whether a task can be trained on any image of a dataset."""
    return any(dataset.is_useful(index, [task]) for index in range(len(dataset)))


def share_labels(datasets: Sequence[ImageDataset]) -> None:
    """Give all datasets the same classes and keypoints, matched by name.

    The first dataset keeps its class ids, new classes of later ones get free ids. Keypoints are those of all datasets
    that name or label some.
    """
    class_names: dict[int, str] = {}
    renumbered = [_add_classes(class_names, dataset) for dataset in datasets]
    skeletons = [
        dataclasses.replace(dataset.skeleton, class_ids=tuple(ids[number] for number in dataset.skeleton.class_ids))
        for dataset, ids in zip(datasets, renumbered, strict=True)
        if dataset.names_points or dataset.labeled_points.any()
    ]
    skeleton = join_skeletons(skeletons) if skeletons else default_skeleton(class_names)
    for dataset, ids in zip(datasets, renumbered, strict=True):
        dataset.adopt(class_names, ids, skeleton)


def _add_classes(class_names: dict[int, str], dataset: ImageDataset) -> dict[int, int]:
    """Add the classes of a dataset that `class_names` lack; return the shared ids by the dataset's own."""
    known = {name: class_id for class_id, name in class_names.items()}
    matches = match_names(dataset.class_names.values(), known)
    shared = {}
    for class_id, name in dataset.class_names.items():
        if name in matches:
            shared[class_id] = known[matches[name]]
        else:
            free = itertools.count(1) if known else [class_id]
            shared[class_id] = next(number for number in free if number not in class_names)
            class_names[shared[class_id]] = name
    if max(class_names, default=0) > MAX_CLASSES:
        raise UserError(
            f"there are token ids for {MAX_CLASSES} classes, the folders of --data-root have more in all; choose some "
            "with --classes"
        )
    return shared
