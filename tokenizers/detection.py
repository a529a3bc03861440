"""Detection as tokens: `10` → `y1 x1 y2 x2 class` for each object, then the end.

A noise object is a box without an object whose class is `FAKE_CLASS`: a model that is trained with them never ends
its list of objects, but predicts the fake class for its last boxes; its objects are ranked by their scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pix2seq.token_ids import CLASS_SHIFT, COORD_SHIFT, COORDS, END, FAKE, is_coord
from pix2seq.tokenizers.vocabulary import (
    Grammar,
    LabelSpace,
    TokenSequence,
    dequantize,
    end_or_pad,
    quantize,
    until_end,
)

if TYPE_CHECKING:
    from pix2seq.config import CFG

PROMPT = 10
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
    """Boxes with classes to tokens and back; `full` is for models that are trained with noise objects."""

    vocab_size: int
    class_ids: Sequence[int]
    max_objects: int
    end_weight: float
    noise_weight: float
    full: bool = False
    prompt_length = 1
    roles = ("y", "x", "class", "end", "fake")

    @classmethod
    def build(cls, cfg: CFG, labels: LabelSpace) -> DetectionTokenizer:
        """The tokenizer of a model with these settings."""
        model, train = cfg.model, cfg.train
        weights = train.end_weight, train.noise_weight
        return cls(model.vocab_size, labels.class_ids, model.max_objects, *weights, model.full_detection)

    @property
    def max_response(self) -> int:
        """Five tokens an object, and the end where there is one."""
        return 5 * self.max_objects + (not self.full)

    def prompt(self) -> np.ndarray:
        """(1,)"""
        return np.array([PROMPT])

    def encode(
        self, boxes: np.ndarray, classes: np.ndarray, noise: np.ndarray | None = None, pad_to: int | None = None
    ) -> TokenSequence:
        """`boxes` (n, 4) y1 x1 y2 x2 in canvas fractions and `classes` (n,), in the order of the targets.

        Boxes of `noise` objects (m, 4) follow them; of these only the class is a target, with `noise_weight`. Last
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
        return TokenSequence.from_response(self.prompt(), response, np.concatenate([weight.reshape(-1), ends]))

    def grammar(self) -> Grammar:
        """Four coordinates, then the likeliest class that exists; the end only between objects, if not `full`.

        Instead of the class, sampling may draw the fake one for the decoder to read.
        """
        grammar = Grammar(5, self.vocab_size, greedy_states=(4,), unreported=(FAKE,), scored_states=(4,))
        if not self.full:
            grammar.allow(0, END, grammar.end, "end")
        for state, role in enumerate(("y1", "x1", "y2", "x2")):
            grammar.allow(state, COORDS, state + 1, role)
        grammar.allow(4, np.asarray(self.class_ids) + CLASS_SHIFT, 0, "class")
        return grammar

    def decode(self, tokens: np.ndarray, probs: np.ndarray) -> Detections:
        """Objects of `tokens` (T,) without the prompt; a score is the class token's probability in `probs` (T,).

        Groups that are not four coordinates and a class are left out, as is an incomplete last group. A grammar allows
        none of them; the official code clips their coordinates instead.
        """
        return self.decode_alternatives(tokens, np.asarray(tokens)[:, None], np.asarray(probs)[:, None])

    def decode_alternatives(self, tokens: np.ndarray, alternatives: np.ndarray, probs: np.ndarray) -> Detections:
        """The boxes of `tokens` (T,), each with every class that it may have: the `alternatives` (T, A) of its class
        token that are classes, with their `probs` (T, A) as scores."""
        count = len(until_end(np.asarray(tokens))) // 5
        coords = np.asarray(tokens)[: count * 5].reshape(count, 5)[:, :4]
        classes, scores = (part[4 : count * 5 : 5] for part in (alternatives, probs))  # (count, A)
        valid = is_coord(coords).all(axis=1)[:, None] & (classes > CLASS_SHIFT) & (classes < COORD_SHIFT)
        box = np.nonzero(valid)[0]
        return Detections(dequantize(coords[box]), classes[valid] - CLASS_SHIFT, scores[valid])


def without_absence(sequence: TokenSequence) -> TokenSequence:
    """A detection sequence that does not teach that there is nothing else: ends and noise objects weigh nothing."""
    says_nothing_else = (sequence.target == END) | (sequence.target == FAKE)
    return replace(sequence, weight=np.where(says_nothing_else, 0, sequence.weight).astype(sequence.weight.dtype))


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
    shown = {
        "none": true,
        "rand_cls": random,
        "real_n_fake_cls": np.where(real, true, fake),
        "rand_n_fake_cls": random_or_fake,
        "real_n_rand_n_fake_cls": np.where(real, true, random_or_fake),
    }[mode]
    tokens = sequence.input.copy()
    tokens[CLASS_TOKENS] = np.where(true == END, END, shown)
    return replace(sequence, input=tokens)
