"""One thread that computes, and tells of what it has while it goes on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue
from threading import Event
from typing import Any


class Left(Exception):
    """Nobody listens any more."""


class Worker:
    """Computes one thing after the other."""

    def __init__(self) -> None:
        self.pool = ThreadPoolExecutor(1, "model")

    def told(self, work: Callable[[Callable[[Any], None]], Any]) -> Iterator[Any]:
        """What `work(tell)` tells, at once, and then what it returns; raises what it raises.

        Once the iterator is closed, as for a browser tab that is gone, `tell` ends the work.
        """
        said: SimpleQueue = SimpleQueue()
        left = Event()

        def tell(item: Any) -> None:
            if left.is_set():
                raise Left
            said.put(item)

        future = self.pool.submit(work, tell)
        future.add_done_callback(said.put)
        try:
            while (item := said.get()) is not future:
                yield item
            yield future.result()
        finally:
            left.set()
