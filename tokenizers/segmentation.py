"""Segmentation as tokens: `11 y1 x1 y2 x2 class` → polygon points `y x …`, polygons parted by `40`, then the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pix2seq.tokenizers.vocabulary import (
    COORDS,
    END,
    SEPARATOR,
    Grammar,
    TokenSequence,
    dequantize,
    end_or_pad,
    instance_prompt,
    is_coord,
    quantize,
    until_end,
)

MIN_POINTS = 3


@dataclass(frozen=True)
class SegmentationTokenizer:
    """An instance's polygons to tokens and back."""

    vocab_size: int
    end_weight: float = 1.0
    separators: int = 1  # between polygons; the official models say two, so that tokens stay pairs

    def prompt(self, box: np.ndarray, class_id: int) -> np.ndarray:
        """(6,) for a `box` (4,) y1 x1 y2 x2 in canvas fractions."""
        return instance_prompt("segmentation", box, class_id)

    def encode(
        self, box: np.ndarray, class_id: int, polygons: Sequence[np.ndarray], pad_to: int | None = None
    ) -> TokenSequence:
        """`polygons`: (K, 2) arrays of y x in canvas fractions; end tokens fill the answer up to `pad_to`, if given."""
        parts = []
        for polygon in polygons:
            parts += [quantize(polygon).reshape(-1), [SEPARATOR] * self.separators]
        response = end_or_pad(np.concatenate(parts[:-1]), pad_to)
        weight = np.where(response == END, self.end_weight, 1.0)
        return TokenSequence.teach(self.prompt(box, class_id), response, weight)

    def grammar(self) -> Grammar:
        """Pairs of coordinates; separators or the end only after three points of a polygon."""
        grammar = Grammar(2 * MIN_POINTS + 1 + self.separators, self.vocab_size)
        full = 2 * MIN_POINTS  # here a polygon has enough points: state `full` waits for y, `full + 1` for x
        for state in range(full):
            grammar.allow(state, COORDS, state + 1)
        grammar.allow(full, COORDS, full + 1)
        grammar.allow(full + 1, COORDS, full)
        parting = [full, *range(full + 2, full + 1 + self.separators)]  # states that a separator leads on from
        for state, following in zip(parting, [*parting[1:], 0], strict=True):
            grammar.allow(state, SEPARATOR, following)
        grammar.allow(full, END, grammar.end)
        return grammar

    def decode(self, tokens: np.ndarray) -> list[np.ndarray]:
        """Polygons, (K, 2) arrays of y x in canvas fractions, of `tokens` (T,) without the prompt.

        Polygons of fewer than three points are left out, as is the last coordinate of an odd run.
        """
        tokens = until_end(np.asarray(tokens))
        runs = np.split(tokens, np.flatnonzero(tokens == SEPARATOR))
        runs = [run[is_coord(run)] for run in runs]
        polygons = [dequantize(run[: len(run) // 2 * 2]).reshape(-1, 2) for run in runs]
        return [polygon for polygon in polygons if len(polygon) >= MIN_POINTS]
