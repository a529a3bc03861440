"""Which images make a batch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class EpochSampler(Sampler):
    """Batches of keys (epoch, index, canvas size) of one epoch in a random order; each process takes its share.

    An epoch has each of `images` once. If these are several parts (number of images, weight), whose indices follow each
    other, it has the images of each part `weight` times: of weight 2.5 twice, and a random half of them once more. A
    key has a fourth number, 1, 2, …, where its image comes again.

    Images that lie in `shards` (n,), the number of the shard of each or -1, come shard after shard, so that few shards
    are needed at a time: the shards of a part, in random order, make `mixed` rows, from which one image after the other
    is taken in turn. What has been seen of an epoch does not depend on the number of processes; where that divides
    `mixed`, each process needs shards that no other one does, but for the ends of its rows.
    """

    def __init__(
        self,
        images: int | Sequence[tuple[int, float]],
        batch_size: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        shards: np.ndarray | None = None,
        mixed: int = 1,
    ) -> None:
        parts = [(images, 1.0)] if isinstance(images, int) else images
        self.counts = [(count, max(round(count * weight), 1) if count else 0) for count, weight in parts]
        self.length = sum(drawn for _, drawn in self.counts)
        self.batch_size, self.seed = batch_size, seed
        self.rank, self.world_size = rank, world_size
        self.shards, self.mixed = shards, mixed
        self.epoch, self.size_px, self.limit, self.done = 0, 0, 0, 0

    def set_epoch(self, epoch: int, size_px: int, limit: int = 0, seen: int = 0) -> None:
        """The next pass is `epoch`, on canvases of `size_px`, of at most `limit` batches (0: all).

        All processes together have `seen` images of it already: the pass begins behind them, at batch number `done`.
        """
        self.epoch, self.size_px, self.limit = epoch, size_px, limit
        self.done = min(seen // (self.batch_size * self.world_size), len(self))

    def __len__(self) -> int:
        """The batches of a whole epoch."""
        batches = max(self.length // (self.batch_size * self.world_size), 1)
        return min(batches, self.limit) if self.limit else batches

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        rng = np.random.default_rng([self.seed, self.epoch])
        drawn = self._drawn(rng)
        order = rng.permutation(self.length)
        if self.shards is not None and self.shards.max(initial=-1) >= 0:
            order = self._shard_by_shard(order, self.shards[drawn[:, 0]], rng)
        order = np.resize(order, max(self.length, self.world_size))  # no process may be left without an image
        order = order[self.rank :: self.world_size]
        for start in range(self.done * self.batch_size, len(self) * self.batch_size, self.batch_size):
            chosen = drawn[order[start : start + self.batch_size]].tolist()
            yield [(self.epoch, index, self.size_px, *([turn] if turn else [])) for index, turn in chosen]

    def _shard_by_shard(self, order: np.ndarray, shards: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """The `order` (length,) with the images of each part that lie in `shards` (length,) in one that visits a shard
        once; images that come several times do so in the same visit. Every part has the places that it had."""
        visits = rng.permutation(shards.max() + 1)[shards]
        sequence = np.lexsort((rng.random(self.length), visits))  # shard after shard, in random order within each
        parts = np.repeat(np.arange(len(self.counts)), [number for _, number in self.counts])
        mixed = order.copy()
        for part in range(len(self.counts)):
            is_mine = (parts == part) & (shards >= 0)
            places = np.flatnonzero(is_mine[order])
            rows = places[np.argsort(places % self.mixed, kind="stable")]
            mixed[rows] = sequence[is_mine[sequence]]
        return mixed

    def _drawn(self, rng: np.random.Generator) -> np.ndarray:
        """The images of an epoch (length, 2): index, and how often the image was drawn before."""
        parts, start = [], 0
        for count, number in self.counts:
            full, rest = number - number % max(count, 1), number % max(count, 1)
            places = np.append(np.arange(full), full + rng.permutation(count)[:rest] if rest else [])
            parts.append(np.stack([start + places % max(count, 1), places // max(count, 1)], axis=1))
            start += count
        return np.concatenate(parts).astype(int)
