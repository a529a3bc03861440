"""The tokens of a response, without torch."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Response:
    """`tokens` (T,) after the prompt and their `probs` (T,); where they were asked for, the likeliest coordinates
    `coords` (T,) at the same places and their probabilities `coord_probs` (T,)."""

    tokens: np.ndarray
    probs: np.ndarray
    coords: np.ndarray | None = None
    coord_probs: np.ndarray | None = None

    @classmethod
    def certain(cls, tokens: np.ndarray) -> Response:
        """Tokens of probability 1."""
        return cls(tokens, np.ones(len(tokens)))
