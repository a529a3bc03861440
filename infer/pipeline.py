"""Many images through a predictor: some are read, others written, while a batch of them is computed.

One image goes the same way. What is in memory does not grow with their number: a batch is computed, one is read ahead,
one may wait to be written.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from pix2seq.errors import UserError
from pix2seq.infer.image_names import Named
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.results import Instances, Result
from pix2seq.runtime.memory import lacks_memory

A, B = TypeVar("A"), TypeVar("B")

READERS = 4  # threads that decode images: Pillow's decoders run beside each other
MOST_BYTES = 256 * 2**20  # of a batch's pixels; a larger image is a batch by itself


@dataclass(frozen=True)
class Job:
    """An image to be read, its id and its `file_name` in the results, and the name of the folder for its files."""

    image: Named
    file_name: str
    folder: str
    image_id: int | str


@dataclass(frozen=True)
class Loaded:
    """The pixels (H, W, 3) uint8 RGB of a job's image, and the instances to be asked about; None: those found."""

    job: Job
    pixels: np.ndarray
    instances: Instances | None = None


@dataclass(frozen=True)
class Failed:
    """Why a job's image has no result, in a sentence."""

    job: Job
    why: str


Predicted = tuple[Loaded, Result]


def process(
    predictor: Predictor,
    names: Sequence[str],
    jobs: Iterable[Job],
    load: Callable[[Job], Loaded | Failed],
    write: Callable[[Predicted | Failed], B],
) -> Iterator[B]:
    """What `write` returns about each job's named tasks, in the order of the jobs.

    `load` is called in several threads, `write` in a single one, which goes on to the last result even after an error
    or Ctrl-C: what has been computed is written. An error that they raise ends it.
    """
    with ThreadPoolExecutor(READERS) as readers, ThreadPoolExecutor(1) as reader, ThreadPoolExecutor(1) as writer:
        size = predictor.settings.eval_batch_size
        batches = one_ahead(reader, batched(in_order(readers, load, jobs, READERS), size))
        predicted = (item for batch in batches for item in predict_batch(predictor, names, batch))
        yield from in_order(writer, write, predicted, size)


def in_order(pool: ThreadPoolExecutor, work: Callable[[A], B], items: Iterable[A], most: int) -> Iterator[B]:
    """`work(item)` of each item in turn; while one is waited for, `pool` works at `most` more."""
    waiting: deque[Future[B]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        while waiting and (len(waiting) > most or waiting[0].done()):
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def one_ahead(pool: ThreadPoolExecutor, items: Iterator[A]) -> Iterator[A]:
    """The items; while one of them is used, `pool` makes the next one."""
    coming = pool.submit(next, items, None)
    while (item := coming.result()) is not None:
        coming = pool.submit(next, items, None)
        yield item


def batched(loaded: Iterable[Loaded | Failed], size: int) -> Iterator[list[Loaded | Failed]]:
    """At most `size` of them at a time, and no more bytes of pixels than MOST_BYTES."""
    batch: list[Loaded | Failed] = []
    held = 0
    for item in loaded:
        more = item.pixels.nbytes if isinstance(item, Loaded) else 0
        if batch and (len(batch) == size or held + more > MOST_BYTES):
            yield batch
            batch, held = [], 0
        batch.append(item)
        held += more
    if batch:
        yield batch


def predict_batch(
    predictor: Predictor, names: Sequence[str], batch: Sequence[Loaded | Failed]
) -> list[Predicted | Failed]:
    """The named tasks on the images of a batch, in its order; of one that is too large for the memory, or cannot be
    predicted, why. It keeps no other from being predicted: halves are tried until it is alone."""
    loaded = [item for item in batch if isinstance(item, Loaded)]
    if not loaded:
        return list(batch)
    given = None if loaded[0].instances is None else [item.instances for item in loaded]
    try:
        results = iter(predictor.describe_images([item.pixels for item in loaded], names, given))
        return [(item, next(results)) if isinstance(item, Loaded) else item for item in batch]
    except Exception as error:
        if not (isinstance(error, UserError) or lacks_memory(error)):
            raise
        why = str(error) if isinstance(error, UserError) else lack_of_memory(loaded[0].job.image)
    if len(batch) == 1:
        return [Failed(loaded[0].job, why)]
    half = len(batch) // 2
    return [*predict_batch(predictor, names, batch[:half]), *predict_batch(predictor, names, batch[half:])]


@contextlib.contextmanager
def memory_for(image: object) -> Iterator[None]:
    """Turn a lack of memory into a UserError about an image."""
    try:
        yield
    except Exception as error:
        if not lacks_memory(error):
            raise
        raise UserError(lack_of_memory(image)) from None


def lack_of_memory(image: object) -> str:
    """A sentence about an image that is too large."""
    return f"{image} needs more memory than there is; make it smaller, or lower --num-samples"
