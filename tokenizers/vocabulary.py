"""What all tokenizers are made of: coordinates as tokens, token sequences to train on, and grammars."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np

from pix2seq.token_ids import CLASS_SHIFT, COORD_BINS, COORD_SHIFT, END

if TYPE_CHECKING:
    from pix2seq.tokenizers.captioning import TextVocabulary


def quantize(fractions: np.ndarray, bins: int = COORD_BINS) -> np.ndarray:
    """Coordinate tokens (…) of canvas fractions (…): round half to even of x · (bins − 1), clipped to the bins."""
    return np.clip(np.rint(np.asarray(fractions) * (bins - 1)), 0, bins - 1).astype(np.int64) + COORD_SHIFT


def dequantize(tokens: np.ndarray, bins: int = COORD_BINS) -> np.ndarray:
    """Canvas fractions (…) float32 of coordinate tokens (…)."""
    return ((np.asarray(tokens) - COORD_SHIFT) / (bins - 1)).astype(np.float32)


def until_end(tokens: np.ndarray, end: int = END) -> np.ndarray:
    """The tokens (T,) before the first end token."""
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0]] if len(ends) else tokens


def end_or_pad(response: np.ndarray, length: int | None) -> np.ndarray:
    """`response` (R,) and one end token; with a `length`, as many as make it so long, none where it is already."""
    return np.pad(response, (0, 1 if length is None else length - len(response)), constant_values=END)


@dataclass(frozen=True)
class LabelSpace:
    """What the token ids of a dataset or a model stand for, apart from coordinates: the `class_ids` in use, the number
    of keypoints of an instance, the vocabulary of captions, and for each keypoint its mirror image."""

    class_ids: Sequence[int]
    num_points: int
    text: TextVocabulary
    flip: Sequence[int] = ()


class Tokenizer(Protocol):
    """What every task's tokenizer has. All of them also `encode` a target to a TokenSequence and `decode` a response,
    each with what its own task needs."""

    prompt_length: int
    roles: tuple[str, ...]  # what the tokens of a response can stand for, of evaluate.tokens.ROLES

    @property
    def max_response(self) -> int:
        """Tokens of the longest response, the end included."""

    def grammar(self) -> Grammar:
        """Which token may follow which in a response."""


def max_length(tokenizer: Tokenizer) -> int:
    """Tokens that the decoder reads of the longest sequence: prompt and response, without the last target."""
    return tokenizer.prompt_length + tokenizer.max_response - 1


@dataclass(frozen=True)
class TokenSequence:
    """What the decoder reads (`input`), is to predict (`target`) and how much each target counts (`weight`): (L,)."""

    input: np.ndarray
    target: np.ndarray
    weight: np.ndarray

    @classmethod
    def from_response(cls, prompt: np.ndarray, response: np.ndarray, response_weight: np.ndarray) -> TokenSequence:
        """`response` (R,) to `prompt` (P,): every response token is a target, the prompt tokens weigh nothing."""
        tokens = np.concatenate([prompt, response]).astype(np.int64)
        weight = np.concatenate([np.zeros(len(prompt)), response_weight]).astype(np.float32)
        return cls(tokens[:-1], tokens[1:], weight[1:])

    def response(self, prompt_length: int) -> np.ndarray:
        """The response (R,) to a prompt of `prompt_length` tokens."""
        return self.target[prompt_length - 1 :]


@dataclass
class Grammar:
    """Which token may come next, as a finite automaton; every sequence starts in state 0.

    `allowed` (states, vocab_size) bool, `next_state` (states, vocab_size) int64. A sequence that has ended stays in
    the state `end`, where only the end token is allowed. In `greedy_states` the likeliest token is chosen, never a
    sampled one; `unreported` tokens may only be drawn there, for the decoder to read. Probabilities are wanted of the
    tokens chosen in `scored_states` (None: in all). `roles` are names of what tokens stand for, and `role`
    (states, vocab_size) uint8 is the place among them of a token's, by the state in which it is chosen.
    """

    num_states: int
    vocab_size: int
    greedy_states: tuple[int, ...] = ()
    unreported: tuple[int, ...] = ()
    scored_states: tuple[int, ...] | None = None
    allowed: np.ndarray = field(init=False)
    next_state: np.ndarray = field(init=False)
    roles: list[str] = field(init=False)
    role: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.allowed = np.zeros((self.num_states + 1, self.vocab_size), dtype=bool)
        self.next_state = np.zeros((self.num_states + 1, self.vocab_size), dtype=np.int64)
        self.roles = [""]
        self.role = np.zeros((self.num_states + 1, self.vocab_size), dtype=np.uint8)
        self.allow(self.end, END, self.end)

    @classmethod
    def unconstrained(cls, vocab_size: int) -> Grammar:
        """Any token until the end token."""
        grammar = cls(1, vocab_size)
        grammar.allow(0, slice(None), 0)
        grammar.allow(0, END, grammar.end)
        return grammar

    @property
    def end(self) -> int:
        """The state of a finished sequence."""
        return self.num_states

    def allow(self, state: int, tokens: int | slice | np.ndarray, to: int, role: str = "") -> None:
        """In `state`, permit `tokens`, which stand for `role` there, and go on to state `to`."""
        if role not in self.roles:
            self.roles.append(role)
        self.allowed[state, tokens] = True
        self.next_state[state, tokens] = to
        self.role[state, tokens] = self.roles.index(role)

    def accepts(self, tokens: Sequence[int]) -> bool:
        """Whether every one of `tokens` is allowed where it stands, as far as the end; a response may be cut before."""
        state = 0
        for token in tokens:
            if state == self.end:
                break
            if not self.allowed[state, token]:
                return False
            state = self.next_state[state, token]
        return True

    def parse(self, tokens: Sequence[int]) -> list[tuple[str, int]]:
        """For each of `tokens`, as far as the end: its role, and the number of the item that it belongs to.

        Items are what a response lists, objects or polygons: each begins in state 0.
        """
        state = item = 0
        parsed = []
        for token in tokens:
            if state == self.end or not self.allowed[state, token]:
                break
            parsed.append((self.roles[self.role[state, token]], item))
            state = int(self.next_state[state, token])
            item += state == 0
        return parsed


PROMPT_ROLES = ("task", "y1", "x1", "y2", "x2", "class")  # of an `instance_prompt`; other prompts end before


def instance_prompt(task_token: int, box: np.ndarray, class_id: int) -> np.ndarray:
    """Prompt (6,) that points at one instance: task, y1 x1 y2 x2 in canvas fractions, class."""
    return np.concatenate([[task_token], quantize(box), [class_id + CLASS_SHIFT]]).astype(np.int64)


def prompted_box(prompt: np.ndarray) -> tuple[np.ndarray, int]:
    """The box (4,) y1 x1 y2 x2 in canvas fractions and the class id of an `instance_prompt` (6,)."""
    return dequantize(prompt[1:5]), int(prompt[5]) - CLASS_SHIFT
