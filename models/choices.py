"""What may come next at each place of a response, worked out from a grammar before anything is decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from pix2seq.models.sampling import choosable


@dataclass(frozen=True, eq=False)
class Part:
    """A part of the vocabulary: the tokens `ids` (K,), in order."""

    ids: Tensor

    @cached_property
    def tokens(self) -> list[int]:
        """`ids` as numbers."""
        return self.ids.tolist()

    def find(self, token: int) -> int | None:
        """The place of a token, None if it is not there."""
        return self._places.get(token)

    @cached_property
    def _places(self) -> dict[int, int]:
        return {token: place for place, token in enumerate(self.tokens)}


@dataclass(frozen=True)
class Choice:
    """What may be chosen at a place: tokens of a `part` of the vocabulary.

    `allowed`, `drawable` and `next_state` (states, K) are the grammar's tables for these tokens. Where `whole`, the
    probabilities in the softmax over the whole vocabulary are needed.
    """

    part: Part
    allowed: Tensor
    drawable: Tensor
    next_state: Tensor
    whole: bool


@dataclass(frozen=True)
class GrammarTables:
    """A grammar on the device: `allowed` (states, V) bool, `next_state` (states, V), and the state `end`.

    In `greedy_states` the likeliest token is chosen even where the others are sampled; `unreported` tokens are never
    chosen there, but sampling may draw them for the decoder to read (see `Sampling.read_drawn`). Probabilities are
    wanted of what is chosen in `scored_states` (None: in all).
    """

    allowed: Tensor
    next_state: Tensor
    end: int
    greedy_states: tuple[int, ...] = ()
    unreported: tuple[int, ...] = ()
    scored_states: tuple[int, ...] | None = None

    @cached_property
    def drawable(self) -> Tensor:
        """`allowed` (states, V), with the `unreported` tokens."""
        table = self.allowed.clone()
        for state in self.greedy_states:
            table[state, list(self.unreported)] = True
        return table

    def choices(self) -> Iterator[Choice]:
        """What may be chosen at the first place, the second, and so on without end: the tokens of all states that a
        response can be in there, so that nothing waits for the device to tell its states."""
        states = frozenset([0])
        while True:
            if states not in self._known:
                self._known[states] = self._choice(states)
            yield self._known[states]
            states = frozenset().union(*(self._following[state] for state in states))

    @cached_property
    def _known(self) -> dict[frozenset[int], Choice]:
        return {}

    @cached_property
    def _parts(self) -> dict[bytes, Part]:
        return {}

    @cached_property
    def _tables(self) -> tuple[np.ndarray, np.ndarray]:
        return self.drawable.cpu().numpy(), self.next_state.cpu().numpy()

    @cached_property
    def _following(self) -> list[frozenset[int]]:
        """The states that each state leads on to. What is `unreported` leads nowhere: the reported token counts."""
        allowed, next_state = self.allowed.cpu().numpy(), self._tables[1]
        return [
            frozenset(np.unique(to[may]).tolist()) or frozenset([state])
            for state, (to, may) in enumerate(zip(next_state, allowed, strict=True))
        ]

    def _choice(self, states: frozenset[int]) -> Choice:
        found = choosable(self._tables[0][sorted(states)])
        part = self._parts.setdefault(found.tobytes(), Part(torch.from_numpy(found).to(self.allowed.device)))
        tables = (table[:, part.ids] for table in (self.allowed, self.drawable, self.next_state))
        whole = self.scored_states is None or not states.isdisjoint(self.scored_states)
        return Choice(part, *tables, whole)
