"""Samples to batches."""

from __future__ import annotations

import atexit
import multiprocessing
import signal
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import Sample, SampleDataset
from pix2seq.dataset.shards_ahead import fetched_ahead
from pix2seq.dataset.views import CanvasObjects
from pix2seq.errors import Unreadable, UserError
from pix2seq.packing import Packing, Tensors, pack
from pix2seq.tokenizers.vocabulary import TokenSequence


@dataclass(frozen=True)
class TaskBatch(Tensors):
    """Sequences of one task: `tokens`, `targets` (S, L) int64, `weights` (S, L), `image_index` (S,)."""

    tokens: Tensor
    targets: Tensor
    weights: Tensor
    image_index: Tensor


@dataclass(frozen=True)
class ObjectBatch(Tensors):
    """CanvasObjects of B canvases, padded with class 0: `boxes` (B, M, 4), `classes` (B, M), `points` (B, M, P, 2),
    `visible` (B, M, P), `unlabeled` (B, U)."""

    boxes: Tensor
    classes: Tensor
    points: Tensor
    visible: Tensor
    unlabeled: Tensor


@dataclass(frozen=True)
class Batch:
    """`images` (B, 3, H, W) in gray levels, the `objects` on them, and by task name the sequences about them, padded
    and as one `packing`; `names` are those of the image files.

    A model reads the packing; the padded sequences stay with the CPU, for what is counted there.
    """

    images: Tensor
    objects: ObjectBatch
    tasks: dict[str, TaskBatch]
    packing: Packing
    names: tuple[str, ...] = ()
    others: tuple[Batch, ...] = ()  # the rest of a step whose batch is computed in parts

    @property
    def parts(self) -> tuple[Batch, ...]:
        """This batch and the others of its step."""
        return (self, *self.others)

    def map(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The same with every tensor changed that a model reads."""
        return replace(
            self,
            images=change(self.images),
            objects=self.objects.map(change),
            packing=self.packing.map(change),
            others=tuple(other.map(change) for other in self.others),
        )

    def to(self, device: torch.device) -> Batch:
        """On `device`, images as floats in [0, 1]."""
        moved = self.map(lambda tensor: tensor.to(device, non_blocking=True))
        return moved._as_floats()

    def _as_floats(self) -> Batch:
        others = tuple(other._as_floats() for other in self.others)
        return replace(self, images=self.images.float() / 255, others=others)

    def pin_memory(self) -> Batch:
        """In memory that a GPU can read from while it computes: DataLoader calls this."""
        return self.map(Tensor.pin_memory)

    def with_tasks(self, tasks: Mapping[str, TaskBatch]) -> Batch:
        """The same with other sequences, on the same device."""
        return replace(self, tasks=dict(tasks), packing=packed(tasks).to(self.images.device))


def packed(tasks: Mapping[str, TaskBatch]) -> Packing:
    """The sequences of all tasks as one packing, a part for each."""
    return pack([(part.tokens, part.targets, part.weights, part.image_index) for part in tasks.values()])


def collate(samples: list[Sample]) -> Batch:
    """Stack canvases and pad each task's sequences to its longest one; a task with no sequence is left out."""
    canvases = np.stack([canvas for sample in samples for canvas in sample.canvases])
    sequences: dict[str, list[tuple[int, TokenSequence]]] = {}
    offset = 0
    for sample in samples:
        for task, pairs in sample.sequences.items():
            sequences.setdefault(task, []).extend((offset + number, sequence) for number, sequence in pairs)
        offset += len(sample.canvases)
    images = torch.from_numpy(canvases).permute(0, 3, 1, 2)
    objects = _pad_objects([objects for sample in samples for objects in sample.objects])
    tasks = {task: _pad(pairs) for task, pairs in sequences.items() if pairs}
    return Batch(images, objects, tasks, packed(tasks), tuple(sample.name for sample in samples))


def _pad_objects(canvases: list[CanvasObjects]) -> ObjectBatch:
    padded = []
    for name in ("boxes", "classes", "points", "visible", "unlabeled"):
        parts = [getattr(canvas, name) for canvas in canvases]
        most = max(1, *map(len, parts))
        whole = np.zeros((len(parts), most, *parts[0].shape[1:]), dtype=parts[0].dtype)
        for row, part in zip(whole, parts, strict=True):
            row[: len(part)] = part
        padded.append(torch.from_numpy(whole))
    return ObjectBatch(*padded)


def _pad(pairs: list[tuple[int, TokenSequence]]) -> TaskBatch:
    length = max(len(sequence.input) for _, sequence in pairs)
    tokens, targets = np.zeros((2, len(pairs), length), dtype=np.int64)
    weights = np.zeros((len(pairs), length), dtype=np.float32)
    for row, (_, sequence) in enumerate(pairs):
        end = len(sequence.input)
        tokens[row, :end], targets[row, :end], weights[row, :end] = sequence.input, sequence.target, sequence.weight
    image_index = torch.tensor([number for number, _ in pairs])
    return TaskBatch(torch.from_numpy(tokens), torch.from_numpy(targets), torch.from_numpy(weights), image_index)


@dataclass(frozen=True)
class Readable(Dataset):
    """`items` by key; in place of one that cannot be read, the UserError that says so.

    As an item the error leaves a loading process whole; raised there, it would arrive with that process's traceback.
    """

    items: Dataset

    def __getitem__(self, key: Any) -> Any:
        try:
            return self.items[key]
        except UserError as error:
            return error


def read_items(items: Iterable[Any]) -> list[Any]:
    """Items of Readable, among which Unreadable may stand; raise any other error: it is not about one item alone, such
    as that of a server without an answer."""
    items = list(items)
    for item in items:
        if isinstance(item, UserError) and not isinstance(item, Unreadable):
            raise item
    return items


class BatchLoader(DataLoader):
    """Batches of a SampleDataset; raises the UserError of a sample that cannot be made."""

    def __iter__(self) -> Iterator[Batch]:
        for batch in super().__iter__():
            if isinstance(batch, UserError):
                raise batch
            yield batch


def build_loader(
    dataset: SampleDataset, sampler: EpochSampler, workers: int, parts: int = 1, pinned: bool = False
) -> BatchLoader:
    """Batches, each in `parts`, made by `workers` processes that live as long as the loader; none draws from torch's
    own generator, whose state is part of what a run goes on with. `pinned` ones are for a GPU."""
    if workers:
        atexit.register(_end_loading)
    return BatchLoader(
        Readable(dataset),
        batch_sampler=fetched_ahead(sampler, dataset),
        num_workers=workers,
        collate_fn=partial(_collate_sound, parts),
        persistent_workers=workers > 0,
        pin_memory=pinned,
        worker_init_fn=_begin_loading,
        generator=torch.Generator(),
    )


def _collate_sound(parts: int, samples: list[Sample | UserError]) -> Batch | UserError:
    errors = [sample for sample in samples if isinstance(sample, UserError)]
    if errors:
        return errors[0]
    first, *others = (collate(samples[start::parts]) for start in range(min(parts, len(samples))))
    return replace(first, others=tuple(others))


def _end_loading() -> None:
    """End the loading processes, which ignore the SIGTERM by which Python would end them before it waits for them."""
    if hasattr(signal, "SIGCHLD"):
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # torch's handler takes their end for a failure
    for process in multiprocessing.active_children():
        if process.daemon:
            process.kill()


def _begin_loading(_: int) -> None:
    import cv2

    for number in (signal.SIGINT, signal.SIGTERM):  # sent to a whole group, they are for the process that trains
        signal.signal(number, signal.SIG_IGN)
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
