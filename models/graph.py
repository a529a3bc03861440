"""Decoding steps as CUDA graphs: a GPU gets one launch where it would get hundreds, which take longer than the work.

torch.compile cannot make these graphs here: it leaves them out where a function changes its inputs, as a step does with
its caches, unless it copies them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from threading import Lock
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from pix2seq.models.step import Cache

Run = Callable[[Tensor, "Cache", Tensor], Tensor]  # tokens (S, 1), their cache, their place (1,) → (S, D)

RECORDING = Lock()  # torch records one graph at a time


class StepGraph:
    """`run` with one cache, recorded once: the same launches with other tokens (S, 1) at other places (1,).

    A result lies where that of the next call will.
    """

    def __init__(self, run: Run, tokens: Tensor, cache: Cache, places: Tensor) -> None:
        self.tokens, self.places = tokens.clone(), places.clone()
        self.graph, stream = torch.cuda.CUDAGraph(), recording_stream(tokens.device)
        with RECORDING, torch.cuda.device(tokens.device):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                run(self.tokens, cache, self.places)  # libraries get ready, which cannot be recorded
            with torch.cuda.graph(self.graph, stream=stream, capture_error_mode="thread_local"):
                self.found = run(self.tokens, cache, self.places)

    def __call__(self, tokens: Tensor, places: Tensor) -> Tensor:
        self.tokens.copy_(tokens)
        self.places.copy_(places)
        self.graph.replay()
        return self.found


class Recorded:
    """`run` by graphs: one for each cache, recorded at its first step, and again when sequences have left it.

    Recording takes as long as some steps without a graph: sequences should leave many at a time (LEAVING).
    """

    LEAVING = 0.75

    def __init__(self, run: Run) -> None:
        self.run = run

    def __call__(self, tokens: Tensor, cache: Cache, places: Tensor) -> Tensor:
        cache.graph = cache.graph or StepGraph(self.run, tokens, cache, places)
        return cache.graph(tokens, places)


@cache
def recording_stream(device: torch.device) -> torch.cuda.Stream:
    """The stream of a GPU that graphs are recorded on: libraries keep memory for each."""
    return torch.cuda.Stream(device)
