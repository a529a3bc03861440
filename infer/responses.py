"""The tokens of a response, without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Response:
    """`tokens` (T,) after the prompt and their `probs` (T,).

    Where they were asked for, at the same places: the most likely tokens, `alternatives` (T, A), and `coords` (T,),
    which are the tokens or, where those are no coordinates, the likeliest ones; with their probabilities.
    """

    tokens: np.ndarray
    probs: np.ndarray
    alternatives: np.ndarray | None = None
    alternative_probs: np.ndarray | None = None
    coords: np.ndarray | None = None
    coord_probs: np.ndarray | None = None

    @classmethod
    def certain(cls, tokens: np.ndarray) -> Response:
        """Tokens of probability 1."""
        return cls(tokens, np.ones(len(tokens)))
