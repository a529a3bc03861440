"""Fetch the shards that the next batches need while others are trained on."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from queue import Empty, SimpleQueue
from threading import Thread

import numpy as np
from torch.utils.data import Sampler

from pix2seq.dataset.sampler import EpochSampler
from pix2seq.dataset.samples import SampleDataset
from pix2seq.dataset.shard_files import StoredFile
from pix2seq.errors import UserError

FETCHERS = 4  # shards that are fetched at a time


class FetchedAhead(Sampler):
    """The batches of `sampler`, of which so many are drawn in advance that those need at most `most` shards; they are
    fetched in the order in which they are needed.

    A shard that cannot be fetched here is asked for again by the loading process that needs it, which can say why.
    """

    def __init__(self, sampler: EpochSampler, files: Sequence[StoredFile], most: int) -> None:
        self.sampler, self.files, self.most = sampler, files, most

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[list[tuple[int, ...]]]:
        drawn: deque[list[tuple[int, ...]]] = deque()
        needed: Counter[int] = Counter()  # batches drawn, but not read yet, by shard
        waiting: SimpleQueue[int | None] = SimpleQueue()
        for _ in range(FETCHERS):
            Thread(target=self._fetch_all, args=(waiting, needed), daemon=True).start()  # none delays the end of a run
        try:
            for batch in self.sampler:
                shards = self._shards_of(batch)
                for number in shards - needed.keys():
                    for waited_for in needed:
                        self.files[waited_for].keep()  # what was used before goes first
                    needed[number] = 0
                    waiting.put(number)
                drawn.append(batch)
                needed.update(shards)
                while len(needed) > self.most:
                    yield drawn[0]
                    self._forget(drawn.popleft(), needed)  # only now is it read
            yield from drawn
        finally:
            with suppress(Empty):
                while True:
                    waiting.get_nowait()
            for _ in range(FETCHERS):
                waiting.put(None)

    def _forget(self, batch: list[tuple[int, ...]], needed: Counter[int]) -> None:
        needed.subtract(self._shards_of(batch))
        for number in [number for number, batches in needed.items() if not batches]:
            del needed[number]

    def _shards_of(self, batch: list[tuple[int, ...]]) -> set[int]:
        numbers = self.sampler.shards[[key[1] for key in batch]]
        return {number for number in np.unique(numbers).tolist() if number >= 0 and self.files[number].url}

    def _fetch_all(self, waiting: SimpleQueue[int | None], needed: Counter[int]) -> None:
        while (number := waiting.get()) is not None:
            with suppress(UserError):  # by now the batches may have been read, and what they needed removed
                self.files[number].fetch(partial(needed.__contains__, number))


def fetched_ahead(sampler: EpochSampler, dataset: SampleDataset) -> Sampler:
    """The batches of `sampler`, before which the shards of `dataset` that are not here are fetched.

    Raises UserError if the disk space for them cannot hold all that are needed at a time.
    """
    files = dataset.examples.shard_files
    remote = [file for file in files if file.url]
    if not remote:
        return sampler
    largest, limit = max(file.about.bytes for file in remote), remote[0].limit_bytes
    datasets = len({file.url for file in remote})
    at_a_time = min(sampler.mixed * datasets + 1, len(remote))
    if limit < largest * at_a_time:
        raise UserError(
            f"--shard-cache-gb {limit / 1e9:g} holds less than the {at_a_time} shards of up to {largest / 1e9:.2g} GB "
            f"needed at a time; set it to {1.1 * largest * at_a_time / 1e9:.2g} or more, or lower --shards-mixed"
        )
    return FetchedAhead(sampler, files, min(2 * at_a_time, max(limit // largest - 1, 1)))
