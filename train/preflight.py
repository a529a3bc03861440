"""What is found out before the first step rather than after hours: room on the disk, memory, and how failures read."""

from __future__ import annotations

import contextlib
import errno
import shutil
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from pix2seq.config import CFG
from pix2seq.dataset.batches import Batch, TaskBatch
from pix2seq.errors import UserError
from pix2seq.runtime import distributed
from pix2seq.runtime.memory import lacks_memory
from pix2seq.tokenizers.vocabulary import max_length
from pix2seq.train.resume import undisturbed

if TYPE_CHECKING:
    from pix2seq.train.engine import Trainer

FULL = (errno.ENOSPC, errno.EDQUOT)
LOADER = "DataLoader worker (pid"  # how torch's error begins when a loading process is gone, with whatever it was doing
LOST = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "ncclRemoteError")


def require_room(folder: Path, trained: nn.Module, average: nn.Module) -> None:
    """Raise UserError if the disk of `folder` has no room for what a run writes: two checkpoints of the weights, their
    average and two moments of each, a third while it is written, and two files of weights."""
    weights, averaged, learned = (
        4 * sum(tensor.numel() for tensor in tensors)
        for tensors in (
            trained.state_dict().values(),
            average.state_dict().values(),
            (parameter for parameter in trained.parameters() if parameter.requires_grad),
        )
    )
    needed, free = 3 * (weights + averaged + 2 * learned) + 2 * averaged, shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"{folder} has room for {free / 1e6:,.0f} MB, but checkpoints and weights of this run take up to "
            f"{needed / 1e6:,.0f} MB; make room, or name another folder with --run-dir"
        )


def try_longest_batch(trainer: Trainer) -> None:
    """One forward and backward pass of `longest_batch`; it changes nothing."""
    if batch := longest_batch(trainer):
        _try_batch(trainer, batch)


def longest_batch(trainer: Trainer) -> Batch | None:
    """The next batch with sequences as long as any can be, in the size of the last epochs; None at an epoch's end."""
    size = trainer.cfg.model.image_size
    keys = [(epoch, index, size, *turn) for epoch, index, _, *turn in _first_keys(trainer)]
    lengths = {name: max_length(tokenizer) for name, tokenizer in trainer.tokenizers.by_task.items()}
    batch = _batch(trainer, keys)
    return _longest(batch, lengths) if batch else None


def seconds_a_step(trainer: Trainer) -> float:
    """The time that a step takes by a trial of the next batch, which changes nothing; 0 if no batch is left.

    Loading processes work beside the step; the optimizers' own time is not in it.
    """
    began = time.perf_counter()
    batch = _batch(trainer, _first_keys(trainer))
    if not batch:
        return 0.0
    loading = time.perf_counter() - began
    _try_batch(trainer, batch)  # the very first pass warms up
    began = time.perf_counter()
    _try_batch(trainer, batch)
    computing, workers = time.perf_counter() - began, trainer.cfg.data.workers
    return max(loading / workers, computing) if workers else loading + computing


def _first_keys(trainer: Trainer) -> list[tuple[int, ...]]:
    return next(iter(trainer.sampler), [])


def _batch(trainer: Trainer, keys: list[tuple[int, ...]]) -> Batch | None:
    dataset = trainer.loader.dataset.items
    return trainer.loader.collate_fn([dataset[key] for key in keys]) if keys else None


def _try_batch(trainer: Trainer, batch: Batch) -> None:
    """A step without its update."""
    with undisturbed(trainer.device):
        trainer.model.train()
        trainer.finite.begin()
        losses = trainer.backward(batch.to(trainer.device))
        trainer.finite.undo()
        trainer.optimizers.zero_grad()
        for loss in losses.values():
            loss.item()  # waits for the device


def _longest(batch: Batch, lengths: dict[str, int]) -> Batch:
    """The batch with a weight for every token of sequences of a length for each task."""

    def padded(part: TaskBatch, length: int) -> TaskBatch:
        tokens, targets = (F.pad(t, (0, max(length - t.shape[1], 0))) for t in (part.tokens, part.targets))
        return TaskBatch(tokens, targets, torch.ones(tokens.shape), part.image_index)

    first, *others = (
        part.with_tasks({task: padded(sequences, lengths[task]) for task, sequences in part.tasks.items()})
        for part in batch.parts
    )
    return replace(first, others=tuple(others))


@contextlib.contextmanager
def failures(cfg: CFG) -> Iterator[None]:
    """Turn what ends a run without being its fault into a UserError: memory, a full disk, another process."""
    go_on = f"go on with --resume {cfg.train.run_dir}"
    try:
        yield
    except OSError as error:
        if error.errno not in FULL:
            raise
        raise UserError(f"the disk is full ({error}); the last checkpoint is kept: make room and {go_on}") from None
    except Exception as error:
        reason = str(error).partition("\n")[0].rstrip(" .")
        if lacks_memory(error):
            raise UserError(
                f"there is not enough memory for --batch-size {cfg.train.batch_size} at --image-size "
                f"{cfg.model.image_size} ({reason.partition('. ')[0] or 'of the machine'}); lower one of them, and "
                f"{go_on}"
            ) from None
        if reason.startswith(LOADER):
            raise UserError(
                f"a process that loads images has ended ({reason}), perhaps for want of memory: {go_on}, with a lower "
                "--workers"
            ) from None
        if distributed.world_size() == 1 or not any(words in str(error) for words in LOST):
            raise
        mistake = UserError(f"another process of the run has ended; see what it says, then {go_on}")
        mistake.everywhere = True
        raise mistake from None
