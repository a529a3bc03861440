"""How tokens are chosen from logits; without torch, so that it can be named before a model is loaded."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pix2seq.token_ids import COORDS

LEAVING = 0.25  # share of sequences that have ended at which these are dropped


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; `top_k=1` or `temperature=0` is greedy.

    Two things are for greedy choices alone. The end is chosen only where its probability, among what is permitted, is
    at least `end_threshold`, and a point is invisible where that has at least `invisible_threshold`: with the
    alternative spread over many coordinates, either is the likeliest token long before it is likely. A coordinate is
    the mean of the `coord_window` bins on each side of the likeliest one.

    With `read_drawn` the decoder reads what sampling draws even where the grammar reports the likeliest token instead.
    A response has at most `max_tokens` (0: as many as its task needs).

    Beside what was chosen at a place are wanted: with `coords_too` the likeliest coordinate where none was chosen, and
    of the likeliest tokens as many as `alternatives`.
    """

    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    end_threshold: float = 0.0
    invisible_threshold: float = 0.0
    coord_window: int = 0
    read_drawn: bool = False
    max_tokens: int = 0
    coords_too: bool = False
    alternatives: int = 0

    @property
    def greedy(self) -> bool:
        return self.top_k == 1 or self.temperature == 0


GREEDY = Sampling()


def choosable(permitted: np.ndarray) -> np.ndarray:
    """The ids (K,) of the tokens that any of n states permits (n, V) bool; with a coordinate all of them, since a
    window around one needs its neighbors, which the states still forbid where they must."""
    some = permitted.any(axis=0)
    if some[COORDS].any():
        some[COORDS] = True
    return np.flatnonzero(some)
