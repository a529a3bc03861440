"""Pack the images of a dataset and what is known about them into shards (see `shard_format`)."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from tqdm import tqdm

from pix2seq.dataset.coco import ImageDataset
from pix2seq.dataset.images import IMAGE_SUFFIXES
from pix2seq.dataset.labels import files_for
from pix2seq.dataset.shard_files import MEMBERS, TAR, sha256_of
from pix2seq.dataset.shard_format import MOST_IMAGE_BYTES, Category, Member, Record, Shard, ShardedSplit, Stored
from pix2seq.errors import UserError, plain
from pix2seq.schema import convert, read_bytes

if TYPE_CHECKING:
    from pix2seq.task import Task

NO_FILE, TOO_LARGE = "image file that cannot be read, left out", "image file that is too large, left out"


def pack(
    dataset: ImageDataset, name: str, tasks: Mapping[str, Task], folder: Path, shard_size: int, seed: int | None
) -> ShardedSplit:
    """Write the images of a split as shards `name-000000.tar`, … into `folder`, `shard_size` images each, with the
    annotations that `tasks` need; what is left out is added to the dataset's `problems`.

    With a `seed` the images are in random order: then those of a few shards are a fair sample of all. Raises UserError
    for ids or names that the format has no place for, and if no image can be read.
    """
    order = range(len(dataset)) if seed is None else np.random.default_rng(seed).permutation(len(dataset)).tolist()
    samples = _samples(dataset, tqdm(order, f"packing {name}", unit=" images"))
    shards: list[Shard] = []
    while group := [sample for _, sample in zip(range(shard_size), samples, strict=False)]:
        shards.append(_write(folder, f"{name}-{len(shards):06d}", group, len(shards) * shard_size))
    if not shards:
        raise UserError(f"{dataset.folder} has no image that can be packed: {'; '.join(dataset.problems.lines())}")
    return ShardedSplit(_categories(dataset), files_for(tasks), dataset.lists_objects, shards)


def _samples(dataset: ImageDataset, order: Sequence[int]) -> Iterator[tuple[str, bytes, Record]]:
    """Suffix, content and record of each image whose file can be read."""
    objects: dict[Any, list[dict]] = {}
    for entry in dataset.every_object():
        objects.setdefault(entry["image_id"], []).append(_object(entry))
    for index in order:
        entry, path = dataset.images[index], dataset.path(index)
        try:
            content = read_bytes(path, MOST_IMAGE_BYTES)
        except OSError as error:
            dataset.problems.add(TOO_LARGE if path.is_file() else NO_FILE, f"{path}: {error.strerror}")
            continue
        image = {key: entry[key] for key in ("id", "file_name", "width", "height", "as_stored") if key in entry}
        image["file_name"] = _as_text(entry["file_name"])
        if dataset.unlabeled_in(index).objects:
            image["spoiled"] = True
        captions = list(map(_as_text, dataset.annotations(index)[1]))
        record = {"image": image, "objects": objects.get(entry["id"], []), "captions": captions}
        suffix = path.suffix.lower()
        yield suffix if suffix in IMAGE_SUFFIXES else ".image", content, record


def _object(entry: Mapping[str, Any]) -> dict:
    """A valid object with what the format has a place for."""
    kept = {key: entry[key] for key in ("category_id", "bbox", "area", "iscrowd", "difficult")}
    if entry.get("keypoints"):
        kept["keypoints"] = entry["keypoints"]
    if shape := entry.get("segmentation"):
        if isinstance(shape, dict):
            counts = shape["counts"]
            shape = {"size": shape["size"], "counts": counts.decode("ascii") if isinstance(counts, bytes) else counts}
        kept["segmentation"] = shape
    return kept


def _as_text(text: str) -> str:
    """A text with what UTF-8 has a form for: names of files and captions may have half a character."""
    return text.encode("utf-8", "replace").decode()


def _write(folder: Path, name: str, group: Sequence[tuple[str, bytes, Record]], first: int) -> Shard:
    """One shard; its images are numbered from `first` on."""
    tar, members = folder / (name + TAR), folder / (name + MEMBERS)
    lines = []
    with closing(tarfile.open(tar, "w", format=tarfile.USTAR_FORMAT)) as archive:
        for number, (suffix, content, record) in enumerate(group, first):
            record = convert(record, Record, record["image"]["file_name"], "correct the dataset's annotations")
            start = _add(archive, f"{number:09d}{suffix}", content)
            _add(archive, f"{number:09d}.json", msgspec.json.encode(record))
            place = {"start": start, "bytes": len(content), "crc32": zlib.crc32(content)}
            lines.append(msgspec.json.encode(Member(**place, record=record)))
    members.write_bytes(b"\n".join(lines) + b"\n")
    return Shard(name, len(group), *(Stored(path.stat().st_size, sha256_of(path)) for path in (tar, members)))


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> int:
    """Add a file, without owner and time; where in the archive its content begins."""
    about = tarfile.TarInfo(name)
    about.size = len(content)
    start = archive.offset + len(about.tobuf(tarfile.USTAR_FORMAT))
    archive.addfile(about, io.BytesIO(content))
    return start


def _categories(dataset: ImageDataset) -> list[Category]:
    """The classes in use, with the keypoints of those that have some."""
    own, found = dataset.own_skeleton, []
    for class_id, entry in zip(dataset.category_ids, dataset.categories, strict=True):
        category: dict[str, Any] = {"id": entry["id"], "name": plain(str(entry["name"]))}
        if dataset.names_points and class_id in own.class_ids:
            category["keypoints"] = list(own.names)
            category["skeleton"] = [(one + 1, other + 1) for one, other in own.bones]
            category["sigmas"] = list(own.sigmas)
            if "flip_pairs" in entry:
                category["flip_pairs"] = [(one, other) for one, other in enumerate(own.flip) if one < other]
        found.append(category)
    return convert(found, list[Category], str(dataset.folder), "correct the dataset's categories")
