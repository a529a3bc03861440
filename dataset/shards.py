"""Images in shards as a dataset: what is known about them is read at the start, images are read by place."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.config import DataCFG
from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.images import Content, read_reduced
from pix2seq.dataset.layout import ChosenLabels, Layout
from pix2seq.dataset.shard_files import MEMBERS, TAR, StoredFile, origin_of, read_index
from pix2seq.dataset.shard_format import INDEX, ShardedSplit, Stored, read_members
from pix2seq.dataset.splits import Part
from pix2seq.errors import Unreadable, UserError, plain

if TYPE_CHECKING:
    from pix2seq.task import Task

FETCHERS = 8  # threads that fetch files of members


class ShardDataset(ImageDataset):
    """The images of a split in `folder`, whose tar files are `shard_files`; those of their members are `members`."""

    def __init__(
        self,
        folder: Path,
        split: ShardedSplit,
        shard_files: list[StoredFile],
        members: list[StoredFile],
        labels: ChosenLabels,
        part: Part,
    ) -> None:
        self.shard_files, self.lists_objects = shard_files, split.lists_objects
        read = partial(_read_content, split, members)
        super().__init__(folder, {INDEX: read}, labels.class_names, labels.classes, labels.skeleton, part)

    def _read_objects(self, contents: Iterable[dict]) -> None:
        super()._read_objects(contents)
        for image in self.images:
            if image.get("spoiled"):
                self._reader.spoiled[image["id"]] = image["file_name"]

    def shard_numbers(self) -> np.ndarray:
        return np.array([image["place"][0] for image in self.images], dtype=int)

    def path(self, index: int) -> Path:
        """What an image is called: its shard, and its file name."""
        entry = self.images[index]
        return self.folder / self.shard_files[entry["place"][0]].name / entry["file_name"]

    def cached_as(self, index: int) -> Path:
        return self.path(index) / f"{self.images[index]['place'][-1]:08x}"

    def read_pixels(self, index: int, shrink: int = 1) -> tuple[np.ndarray, int]:
        entry, path = self.images[index], self.path(index)
        shard, start, count, crc32 = entry["place"]
        content = Content(str(path), self.shard_files[shard].read(start, count))
        if zlib.crc32(content.data) != crc32:
            raise Unreadable(f"{path} is not as it was packed: the shard is damaged; get it again")
        return read_reduced(content, shrink, as_stored=entry.get("as_stored", False))

    def leave_out_unreadable(self) -> None:
        """Nothing to do: sizes and frames were settled when the images were packed."""


class ShardLayout(Layout):
    """`shards.json`, and the files that it names, here or at the address that the folder stands for."""

    title = "shards"

    def __init__(self, root: Path, data: DataCFG) -> None:
        self.root, self.url, self.data = root, origin_of(root), data
        self.splits = read_index(root).splits

    def tasks(self, split: str, tasks: Mapping[str, Task]) -> dict[str, Task]:
        """Those of `tasks` whose annotations were packed."""
        return {name: t for name, t in tasks.items() if t.samples.COCO_FILE in self.splits[split].labeled}

    def describe(self, split: str) -> str:
        shards = self.splits[split].shards
        size_gb = sum(shard.tar.bytes for shard in shards) / 1e9
        where = f" at {plain(self.url)}" if self.url else ""
        return f"{len(shards)} of {split}{where}, {size_gb:.1f} GB"

    def dataset(self, part: Part, tasks: Mapping[str, Task], images: Path | None, labels: ChosenLabels) -> ImageDataset:
        split = self.splits[part.split]
        if missing := [name for name in tasks if name not in self.tasks(part.split, tasks)]:
            raise UserError(f"the shards in {self.root} have no annotations for {missing[0]}; leave it out of --task")
        tars = [self._file(shard.name + TAR, shard.tar) for shard in split.shards]
        members = [self._file(shard.name + MEMBERS, shard.members) for shard in split.shards]
        for file in (*tars, *members):
            file.require(self.data.outside_images)
        with ThreadPoolExecutor(FETCHERS) as pool:
            list(pool.map(StoredFile.path, members))
        return ShardDataset(self.root, split, tars, members, labels, part)

    def _file(self, name: str, about: Stored) -> StoredFile:
        return StoredFile(self.root, name, about, self.url, int(self.data.shard_cache_gb * 1e9))


def _read_content(split: ShardedSplit, files: list[StoredFile]) -> dict:
    """What the members of all shards say, in COCO's format; `place` of an image is (shard, start, bytes, checksum)."""
    images, annotations = [], []
    for number, (shard, file) in enumerate(zip(split.shards, files, strict=True)):
        for member in read_members(file.content(), shard, file.folder / file.name):
            record, image_id = member["record"], member["record"]["image"]["id"]
            images.append(record["image"] | {"place": (number, member["start"], member["bytes"], member["crc32"])})
            annotations += [entry | {"image_id": image_id} for entry in record["objects"]]
            annotations += [{"image_id": image_id, "caption": text} for text in record["captions"]]
    return {"images": images, "annotations": annotations, "categories": split.categories}
