"""Keypoints as tokens: `12 y1 x1 y2 x2 class` → `y x` for each point, `41 41` where it is invisible."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.token_ids import COORDS, END, INVISIBLE, is_coord
from pix2seq.tokenizers.vocabulary import (
    Grammar,
    LabelSpace,
    TokenSequence,
    dequantize,
    instance_prompt,
    quantize,
)

if TYPE_CHECKING:
    from pix2seq.config import CFG

PROMPT = 12


@dataclass(frozen=True)
class Keypoints:
    """`points` (K, 2) y x in canvas fractions (0 where invisible), `visible` (K,) bool, `score` of the instance."""

    points: np.ndarray
    visible: np.ndarray
    score: float


@dataclass(frozen=True)
class KeypointTokenizer:
    """An instance's keypoints to tokens and back; `flip` (K,) is the index of each point's mirror image."""

    vocab_size: int
    num_points: int
    invisible_weight: float
    flip: Sequence[int] = ()
    prompt_length = 6
    roles = ("y", "x", "invisible")

    @classmethod
    def build(cls, cfg: CFG, labels: LabelSpace) -> KeypointTokenizer:
        """The tokenizer of a model with these settings."""
        return cls(cfg.model.vocab_size, labels.num_points, cfg.train.invisible_weight, labels.flip)

    @property
    def max_response(self) -> int:
        """Two tokens a point; the end is not predicted."""
        return 2 * self.num_points

    def prompt(self, box: np.ndarray, class_id: int) -> np.ndarray:
        """(6,) for a `box` (4,) y1 x1 y2 x2 in canvas fractions."""
        return instance_prompt(PROMPT, box, class_id)

    def encode(
        self,
        box: np.ndarray,
        class_id: int,
        points: np.ndarray,
        visible: np.ndarray,
        unlabeled: np.ndarray | None = None,
    ) -> TokenSequence:
        """`points` (K, 2) y x in canvas fractions, `visible` (K,) bool: labelled and inside the canvas.

        Nothing is known about `unlabeled` (K,) points: their tokens are the invisible ones and weigh nothing.
        """
        response = np.where(np.asarray(visible)[:, None], quantize(points), INVISIBLE).reshape(-1)
        weight = np.where(response == INVISIBLE, self.invisible_weight, 1.0)
        if unlabeled is not None:
            weight[np.repeat(unlabeled, 2)] = 0
        return TokenSequence.from_response(self.prompt(box, class_id), response, weight)

    def grammar(self) -> Grammar:
        """`num_points` pairs: two coordinates, or invisible twice; then the end."""
        grammar = Grammar(3 * self.num_points, self.vocab_size)
        for point in range(self.num_points):
            state_y, state_x, state_invisible_x = 3 * point, 3 * point + 1, 3 * point + 2
            following = 3 * point + 3  # after the last point this is grammar.end
            grammar.allow(state_y, COORDS, state_x, "y")
            grammar.allow(state_x, COORDS, following, "x")
            grammar.allow(state_y, INVISIBLE, state_invisible_x, "invisible")
            grammar.allow(state_invisible_x, INVISIBLE, following, "invisible")
        return grammar

    def decode(self, tokens: np.ndarray, probs: np.ndarray) -> Keypoints:
        """Points of `tokens` (T,) without the prompt; the score is the mean of `probs` (T,) over the answer.

        A point is visible if both its tokens are coordinates; missing points are invisible.
        """
        length = self.max_response
        pairs = np.full(length, INVISIBLE)
        pairs[: len(tokens)] = np.asarray(tokens)[:length]
        pairs = pairs.reshape(self.num_points, 2)
        visible = is_coord(pairs).all(axis=1)
        points = np.where(visible[:, None], dequantize(pairs), np.float32(0))
        answer = np.asarray(probs)[:length][np.asarray(tokens)[:length] != END]
        return Keypoints(points, visible, float(answer.mean()) if len(answer) else 0.0)


def mask_points(sequence: TokenSequence, ratio: float, rng: np.random.Generator) -> TokenSequence:
    """A keypoint sequence whose input (not its target) is "invisible" for a share `ratio` of the response's tokens."""
    masked = rng.random(len(sequence.input)) < ratio
    masked[: KeypointTokenizer.prompt_length] = False
    return replace(sequence, input=np.where(masked, INVISIBLE, sequence.input))
