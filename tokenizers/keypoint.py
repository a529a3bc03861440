"""Keypoints as tokens: `12 y1 x1 y2 x2 class` → `y x` for each point, `41 41` where it is invisible."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from pix2seq.tokenizers.vocabulary import (
    COORDS,
    END,
    INVISIBLE,
    Grammar,
    TokenSequence,
    dequantize,
    instance_prompt,
    is_coord,
    quantize,
)

PROMPT_LENGTH = 6


@dataclass(frozen=True)
class Keypoints:
    """`points` (K, 2) y x in canvas fractions (0 where invisible), `visible` (K,) bool, `score` of the instance."""

    points: np.ndarray
    visible: np.ndarray
    score: float


@dataclass(frozen=True)
class KeypointTokenizer:
    """An instance's keypoints to tokens and back."""

    vocab_size: int
    num_points: int
    invisible_weight: float

    def prompt(self, box: np.ndarray, class_id: int) -> np.ndarray:
        """(6,) for a `box` (4,) y1 x1 y2 x2 in canvas fractions."""
        return instance_prompt("keypoint", box, class_id)

    def encode(self, box: np.ndarray, class_id: int, points: np.ndarray, visible: np.ndarray) -> TokenSequence:
        """`points` (K, 2) y x in canvas fractions, `visible` (K,) bool: labelled and inside the canvas."""
        response = np.where(np.asarray(visible)[:, None], quantize(points), INVISIBLE).reshape(-1)
        weight = np.where(response == INVISIBLE, self.invisible_weight, 1.0)
        return TokenSequence.teach(self.prompt(box, class_id), response, weight)

    def grammar(self) -> Grammar:
        """`num_points` pairs: two coordinates, or invisible twice; then the end."""
        grammar = Grammar(3 * self.num_points, self.vocab_size)
        for point in range(self.num_points):
            state_y, state_x, state_invisible_x = 3 * point, 3 * point + 1, 3 * point + 2
            following = 3 * point + 3  # after the last point this is grammar.end
            grammar.allow(state_y, COORDS, state_x)
            grammar.allow(state_x, COORDS, following)
            grammar.allow(state_y, INVISIBLE, state_invisible_x)
            grammar.allow(state_invisible_x, INVISIBLE, following)
        return grammar

    def decode(self, tokens: np.ndarray, probs: np.ndarray) -> Keypoints:
        """Points of `tokens` (T,) without the prompt; the score is the mean of `probs` (T,) over the answer.

        A point is visible if both its tokens are coordinates; missing points are invisible.
        """
        length = 2 * self.num_points
        pairs = np.full(length, INVISIBLE)
        pairs[: len(tokens)] = np.asarray(tokens)[:length]
        pairs = pairs.reshape(self.num_points, 2)
        visible = is_coord(pairs).all(axis=1)
        points = np.where(visible[:, None], dequantize(pairs), np.float32(0))
        answer = np.asarray(probs)[:length][np.asarray(tokens)[:length] != END]
        return Keypoints(points, visible, float(answer.mean()) if len(answer) else 0.0)


def mask_points(sequence: TokenSequence, ratio: float, rng: np.random.Generator) -> TokenSequence:
    """A keypoint sequence whose input (not its target) says "invisible" for a share `ratio` of the answer's tokens."""
    masked = rng.random(len(sequence.input)) < ratio
    masked[:PROMPT_LENGTH] = False
    return replace(sequence, input=np.where(masked, INVISIBLE, sequence.input))
