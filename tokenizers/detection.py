"""Detection as tokens: `10` → `y1 x1 y2 x2 class` for each object, then the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from tokenizers.vocabulary import (
    CLASS_SHIFT,
    COORD_SHIFT,
    COORDS,
    END,
    PROMPTS,
    Grammar,
    TokenSequence,
    dequantize,
    is_coord,
    quantize,
    until_end,
)


@dataclass(frozen=True)
class Detections:
    """`boxes` (n, 4) y1 x1 y2 x2 in canvas fractions, `classes` (n,), `scores` (n,)."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class DetectionTokenizer:
    """Boxes with classes to tokens and back."""

    vocab_size: int
    class_ids: Sequence[int]
    end_weight: float = 0.1

    def prompt(self) -> np.ndarray:
        """(1,)"""
        return np.array([PROMPTS["detection"]])

    def encode(self, boxes: np.ndarray, classes: np.ndarray) -> TokenSequence:
        """`boxes` (n, 4) y1 x1 y2 x2 in canvas fractions and `classes` (n,), in the order to be taught."""
        objects = np.concatenate([quantize(boxes).reshape(-1, 4), np.reshape(classes, (-1, 1)) + CLASS_SHIFT], axis=1)
        response = np.append(objects.reshape(-1), END)
        weight = np.where(response == END, self.end_weight, 1.0)
        return TokenSequence.teach(self.prompt(), response, weight)

    def grammar(self) -> Grammar:
        """Four coordinates, then a class that exists; the end only between objects."""
        grammar = Grammar(5, self.vocab_size)
        grammar.allow(0, END, grammar.end)
        for state in range(4):
            grammar.allow(state, COORDS, state + 1)
        grammar.allow(4, np.asarray(self.class_ids) + CLASS_SHIFT, 0)
        return grammar

    def decode(self, tokens: np.ndarray, probs: np.ndarray) -> Detections:
        """Objects of `tokens` (T,) without the prompt; a score is the class token's probability in `probs` (T,).

        Groups that are not four coordinates and a class are left out, as is an incomplete last group.
        """
        count = len(until_end(np.asarray(tokens))) // 5
        groups = np.asarray(tokens)[: count * 5].reshape(count, 5)
        classes = groups[:, 4]
        valid = is_coord(groups[:, :4]).all(axis=1) & (classes > CLASS_SHIFT) & (classes < COORD_SHIFT)
        scores = np.asarray(probs)[: count * 5].reshape(count, 5)[:, 4]
        return Detections(dequantize(groups[valid, :4]), classes[valid] - CLASS_SHIFT, scores[valid])
