"""Segmentation as tokens: `11 y1 x1 y2 x2 class` → polygon points `y x …`, polygons parted by `40`, then the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.token_ids import COORDS, END, SEPARATOR, is_coord
from pix2seq.tokenizers.vocabulary import (
    Grammar,
    LabelSpace,
    TokenSequence,
    dequantize,
    end_or_pad,
    instance_prompt,
    quantize,
    until_end,
)

if TYPE_CHECKING:
    from pix2seq.config import CFG

PROMPT = 11
MIN_POINTS = 3


@dataclass(frozen=True)
class SegmentationTokenizer:
    """An instance's polygons to tokens and back."""

    vocab_size: int
    max_points: int
    separators: int = 1  # between polygons; the official models have two, so that tokens stay pairs
    end_weight: float = 1.0
    prompt_length = 6
    roles = ("y", "x", "separator", "end")

    @classmethod
    def build(cls, cfg: CFG, labels: LabelSpace) -> SegmentationTokenizer:
        """The tokenizer of a model with these settings."""
        return cls(cfg.model.vocab_size, cfg.model.max_points, cfg.model.separators)

    @property
    def max_response(self) -> int:
        """All points, in as many polygons as they can make, separators between these, and the end."""
        return self.length(self.max_points, self.max_points // MIN_POINTS)

    def length(self, num_points: int, num_polygons: int) -> int:
        """Tokens of a response that has so many points in so many polygons."""
        return 2 * num_points + self.separators * (num_polygons - 1) + 1

    def prompt(self, box: np.ndarray, class_id: int) -> np.ndarray:
        """(6,) for a `box` (4,) y1 x1 y2 x2 in canvas fractions."""
        return instance_prompt(PROMPT, box, class_id)

    def encode(
        self, box: np.ndarray, class_id: int, polygons: Sequence[np.ndarray], pad_to: int | None = None
    ) -> TokenSequence:
        """`polygons`: (K, 2) arrays of y x in canvas fractions; end tokens fill the answer up to `pad_to`, if given."""
        parts = []
        for polygon in polygons:
            parts += [quantize(polygon).reshape(-1), [SEPARATOR] * self.separators]
        response = end_or_pad(np.concatenate(parts[:-1]), pad_to)
        weight = np.where(response == END, self.end_weight, 1.0)
        return TokenSequence.from_response(self.prompt(box, class_id), response, weight)

    def grammar(self) -> Grammar:
        """Pairs of coordinates; separators or the end only after three points of a polygon."""
        grammar = Grammar(2 * MIN_POINTS + 1 + self.separators, self.vocab_size, scored_states=())
        full = 2 * MIN_POINTS  # here a polygon has enough points: state `full` waits for y, `full + 1` for x
        for state in range(full):
            grammar.allow(state, COORDS, state + 1, "yx"[state % 2])
        grammar.allow(full, COORDS, full + 1, "y")
        grammar.allow(full + 1, COORDS, full, "x")
        parting = [full, *range(full + 2, full + 1 + self.separators)]  # states that a separator leads on from
        for state, following in zip(parting, [*parting[1:], 0], strict=True):
            grammar.allow(state, SEPARATOR, following, "separator")
        grammar.allow(full, END, grammar.end, "end")
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
