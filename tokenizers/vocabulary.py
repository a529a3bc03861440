"""The token ids that all tasks share: the published layout of the official multi-task models.

| ids         | meaning                                                         |
| 0           | padding, and the end of a sequence                              |
| 10 … 13     | task prompts                                                    |
| 30          | fake class (noise objects) or fake text (dropped caption words) |
| 40, 41      | polygon separator, invisible keypoint                           |
| 100 … 999   | class id + 100                                                  |
| 1000 … 1999 | coordinate bin + 1000, y before x                               |
| 3000 …      | text id + 3000                                                  |
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor

END = 0
PROMPTS = {"detection": 10, "segmentation": 11, "keypoint": 12, "captioning": 13}
FAKE = 30
SEPARATOR = 40
INVISIBLE = 41
CLASS_SHIFT = 100
COORD_SHIFT = 1000
COORD_BINS = 1000
TEXT_SHIFT = 3000

COORDS = slice(COORD_SHIFT, COORD_SHIFT + COORD_BINS)


def quantize(fractions: np.ndarray, bins: int = COORD_BINS) -> np.ndarray:
    """Coordinate tokens (…) of canvas fractions (…): round half to even of x · (bins − 1), clipped to the bins."""
    return np.clip(np.rint(np.asarray(fractions) * (bins - 1)), 0, bins - 1).astype(np.int64) + COORD_SHIFT


def dequantize(tokens: np.ndarray, bins: int = COORD_BINS) -> np.ndarray:
    """Canvas fractions (…) float32 of coordinate tokens (…)."""
    return ((np.asarray(tokens) - COORD_SHIFT) / (bins - 1)).astype(np.float32)


def is_coord(tokens: np.ndarray | Tensor) -> np.ndarray | Tensor:
    """Which tokens (…) are coordinates, in NumPy or torch as they come."""
    return (tokens >= COORD_SHIFT) & (tokens < COORD_SHIFT + COORD_BINS)


def until_end(tokens: np.ndarray, end: int = END) -> np.ndarray:
    """The tokens (T,) before the first end token."""
    ends = np.flatnonzero(tokens == end)
    return tokens[: ends[0]] if len(ends) else tokens


def end_or_pad(response: np.ndarray, length: int | None) -> np.ndarray:
    """`response` (R,) and one end token; with a `length`, as many as make it so long, none where it is already."""
    return np.pad(response, (0, 1 if length is None else length - len(response)), constant_values=END)


@dataclass(frozen=True)
class TokenSequence:
    """What the decoder reads (`input`), must answer (`target`) and how much each answer counts (`weight`), all (L,)."""

    input: np.ndarray
    target: np.ndarray
    weight: np.ndarray

    @classmethod
    def teach(cls, prompt: np.ndarray, response: np.ndarray, response_weight: np.ndarray) -> TokenSequence:
        """Teach `response` (R,) to a `prompt` (P,): every response token is a target, no prompt token is."""
        tokens = np.concatenate([prompt, response]).astype(np.int64)
        weight = np.concatenate([np.zeros(len(prompt)), response_weight]).astype(np.float32)
        return cls(tokens[:-1], tokens[1:], weight[1:])


@dataclass
class Grammar:
    """Which token may come next, as a finite automaton; every sequence starts in state 0.

    `allowed` (states, vocab_size) bool, `next_state` (states, vocab_size) int64. A sequence that has ended stays in
    the state `end`, where only the end token is allowed. In `greedy_states` the likeliest token is said, never a
    sampled one.
    """

    num_states: int
    vocab_size: int
    greedy_states: tuple[int, ...] = ()
    allowed: np.ndarray = field(init=False)
    next_state: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.allowed = np.zeros((self.num_states + 1, self.vocab_size), dtype=bool)
        self.next_state = np.zeros((self.num_states + 1, self.vocab_size), dtype=np.int64)
        self.allow(self.end, END, self.end)

    @property
    def end(self) -> int:
        """The state of a finished sequence."""
        return self.num_states

    def allow(self, state: int, tokens: int | slice | np.ndarray, to: int) -> None:
        """In `state`, permit `tokens` and go on to state `to`."""
        self.allowed[state, tokens] = True
        self.next_state[state, tokens] = to


def instance_prompt(task: str, box: np.ndarray, class_id: int) -> np.ndarray:
    """Prompt (6,) that points at one instance: task, y1 x1 y2 x2 in canvas fractions, class."""
    return np.concatenate([[PROMPTS[task]], quantize(box), [class_id + CLASS_SHIFT]]).astype(np.int64)
