"""Which images make a batch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from torch.utils.data import Sampler

if TYPE_CHECKING:
    pass  # Python 3.11; annotations are not evaluated


class EpochSampler(Sampler):
    """Batches of keys (epoch, index, canvas size) of one epoch in a random order; each process takes its share."""

    def __init__(self, length: int, batch_size: int, seed: int, rank: int = 0, world_size: int = 1) -> None:
        self.length, self.batch_size, self.seed = length, batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.epoch, self.size_px, self.limit = 0, 0, 0

    def set_epoch(self, epoch: int, size_px: int, limit: int = 0) -> None:
        """The next pass is `epoch`, on canvases of `size_px`, of at most `limit` batches (0: all)."""
        self.epoch, self.size_px, self.limit = epoch, size_px, limit

    def __len__(self) -> int:
        batches = max(self.length // (self.batch_size * self.world_size), 1)
        return min(batches, self.limit) if self.limit else batches

    def __iter__(self) -> Iterator[list[tuple[int, int, int]]]:
        order = np.random.default_rng([self.seed, self.epoch]).permutation(self.length)
        order = np.resize(order, max(self.length, self.world_size))  # no process may be left without an image
        order = order[self.rank :: self.world_size]
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield [(self.epoch, int(index), self.size_px) for index in order[start : start + self.batch_size]]
