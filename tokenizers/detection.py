"""Detection as tokens: `10` → `y1 x1 y2 x2 class` for each object, then the end.

A noise object is a box without an object whose class is `FAKE_CLASS`: it teaches a model that keeps on talking to say
of its last boxes that they are none. Such a model is never asked to end; its objects are ranked by their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from pix2seq.tokenizers.vocabulary import (
    CLASS_SHIFT,
    COORD_SHIFT,
    COORDS,
    END,
    FAKE,
    PROMPTS,
    Grammar,
    TokenSequence,
    dequantize,
    end_or_pad,
    is_coord,
    quantize,
    until_end,
)

FAKE_CLASS = FAKE - CLASS_SHIFT  # the class of noise objects: its token is FAKE
CLASS_TOKENS = slice(5, None, 5)  # where classes stand in the input of a detection sequence
CORRUPTIONS = ("none", "rand_cls", "real_n_fake_cls", "rand_n_fake_cls", "real_n_rand_n_fake_cls")


@dataclass(frozen=True)
class Detections:
    """`boxes` (n, 4) y1 x1 y2 x2 in canvas fractions, `classes` (n,), `scores` (n,)."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class DetectionTokenizer:
    """Boxes with classes to tokens and back; `full` is for models that were taught with noise objects."""

    vocab_size: int
    class_ids: Sequence[int]
    end_weight: float
    noise_weight: float
    full: bool = False

    def prompt(self) -> np.ndarray:
        """(1,)"""
        return np.array([PROMPTS["detection"]])

    def encode(
        self, boxes: np.ndarray, classes: np.ndarray, noise: np.ndarray | None = None, pad_to: int | None = None
    ) -> TokenSequence:
        """`boxes` (n, 4) y1 x1 y2 x2 in canvas fractions and `classes` (n,), in the order to be taught.

        Boxes of `noise` objects (m, 4) follow them; of these only the class is taught, with `noise_weight`. At last
        comes an end token if there is no noise, or with `pad_to` as many as stand for the objects that are missing from
        so many; each weighs `end_weight`.
        """
        if noise is not None:
            boxes, classes = np.concatenate([boxes, noise]), np.append(classes, np.full(len(noise), FAKE_CLASS))
            pad_to = pad_to or len(boxes)
        objects = np.concatenate([quantize(boxes).reshape(-1, 4), np.reshape(classes, (-1, 1)) + CLASS_SHIFT], axis=1)
        weight = np.ones(objects.shape)
        weight[objects[:, 4] == FAKE] = [0, 0, 0, 0, self.noise_weight]
        response = end_or_pad(objects.reshape(-1), None if pad_to is None else 5 * pad_to)
        ends = np.full(len(response) - objects.size, self.end_weight)
        return TokenSequence.teach(self.prompt(), response, np.concatenate([weight.reshape(-1), ends]))

    def grammar(self) -> Grammar:
        """Four coordinates, then the likeliest class that exists; the end only between objects, if not `full`."""
        grammar = Grammar(5, self.vocab_size, greedy_states=(4,))
        if not self.full:
            grammar.allow(0, END, grammar.end)
        for state in range(4):
            grammar.allow(state, COORDS, state + 1)
        grammar.allow(4, np.asarray(self.class_ids) + CLASS_SHIFT, 0)
        return grammar

    def decode(self, tokens: np.ndarray, probs: np.ndarray) -> Detections:
        """Objects of `tokens` (T,) without the prompt; a score is the class token's probability in `probs` (T,).

        Groups that are not four coordinates and a class are left out, as is an incomplete last group. A grammar allows
        none of them; the official code clips their coordinates instead.
        """
        count = len(until_end(np.asarray(tokens))) // 5
        groups = np.asarray(tokens)[: count * 5].reshape(count, 5)
        classes = groups[:, 4]
        valid = is_coord(groups[:, :4]).all(axis=1) & (classes > CLASS_SHIFT) & (classes < COORD_SHIFT)
        scores = np.asarray(probs)[: count * 5].reshape(count, 5)[:, 4]
        return Detections(dequantize(groups[valid, :4]), classes[valid] - CLASS_SHIFT, scores[valid])


def corrupt_classes(sequence: TokenSequence, mode: str, rng: np.random.Generator) -> TokenSequence:
    """A detection sequence whose input (not its target) has other classes, so that none is inferred from those before.

    `mode` is one of CORRUPTIONS: `rand` is any class token, `fake` the token of noise objects, `real` the true one.
    With two, each object's is drawn anew with even odds; with three, the real one half of the time.
    """
    true = sequence.input[CLASS_TOKENS]
    random = rng.integers(CLASS_SHIFT, COORD_SHIFT, len(true))
    fake = np.full(len(true), FAKE)
    random_or_fake = np.where(rng.random(len(true)) < 0.5, random, fake)
    real = rng.random(len(true)) < 0.5
    said = {
        "none": true,
        "rand_cls": random,
        "real_n_fake_cls": np.where(real, true, fake),
        "rand_n_fake_cls": random_or_fake,
        "real_n_rand_n_fake_cls": np.where(real, true, random_or_fake),
    }[mode]
    tokens = sequence.input.copy()
    tokens[CLASS_TOKENS] = np.where(true == END, END, said)
    return replace(sequence, input=tokens)
