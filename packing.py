"""Sequences of different lengths side by side, without padding: what data loading prepares and a decoder reads.

All tokens of a batch stand in one row of T tokens, in which linear layers compute. Attention needs rows of equal
length: `Buckets` pads them for it, in a few groups of about the same length. Whatever depends on the data (lengths,
numbers of sequences, places) is computed here, beside the model: inside it a GPU would have to wait for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

if TYPE_CHECKING:
    from typing import Self  # Python 3.11; annotations are not evaluated

BUCKETS = 4  # groups of rows: more would pad less, and make more and smaller products


class Tensors:
    """A dataclass whose fields are tensors, tuples of them, or others of its kind."""

    def map(self, change: Callable[[Tensor], Tensor]) -> Self:
        """The same with every tensor changed."""
        return type(self)(*(_mapped(value, change) for value in vars(self).values()))

    def to(self, device: torch.device) -> Self:
        """The same on `device`."""
        return self.map(lambda tensor: tensor.to(device, non_blocking=True))


def _mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensors):
        return value.map(change)
    return tuple(_mapped(inner, change) for inner in value) if isinstance(value, tuple) else change(value)


@dataclass(frozen=True)
class Buckets(Tensors):
    """T tokens in R rows, in groups of rows that are padded to the longest one of the group.

    `slots` are for each group the tokens (r, l) of its rows, T where a row has ended; `rows` (R,) the numbers of the
    rows, group after group; `place` (T,) says where in the joined slots of all groups each token lies.
    """

    slots: tuple[Tensor, ...]
    rows: Tensor
    place: Tensor

    def spread(self, x: Tensor) -> list[Tensor]:
        """(T, …) → (r, l, …) of each group, zero where a row has ended."""
        moved = _Spread.apply(x, self._joined(), self.place).split([slots.numel() for slots in self.slots])
        return [part.unflatten(0, slots.shape) for part, slots in zip(moved, self.slots, strict=True)]

    def collect(self, parts: Sequence[Tensor]) -> Tensor:
        """What `spread` did, undone."""
        return _Collect.apply(torch.cat([part.flatten(0, 1) for part in parts]), self._joined(), self.place)

    def _joined(self) -> Tensor:
        return torch.cat([slots.flatten() for slots in self.slots])


class _Spread(torch.autograd.Function):
    """Each token to its slot. The gradient moves back the same way: no sums, as an index's own gradient would need."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(place)
        return _take_or_zero(x, slots)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (place,) = ctx.saved_tensors
        return gradient.index_select(0, place), None, None


class _Collect(torch.autograd.Function):
    """Each token from its slot."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, slots: Tensor, place: Tensor) -> Tensor:
        ctx.save_for_backward(slots)
        return x.index_select(0, place)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (slots,) = ctx.saved_tensors
        return _take_or_zero(gradient, slots), None, None


def _take_or_zero(x: Tensor, index: Tensor) -> Tensor:
    """`x[index]`, zeros where the index is len(x)."""
    return torch.cat([x, x.new_zeros(1, *x.shape[1:])]).index_select(0, index)


@dataclass(frozen=True)
class Packing(Tensors):
    """The T tokens of S sequences about B images.

    `tokens`, `positions` in their sequences and numbers of the `sequences` are (T,); `image_index` (S,). Sequences are
    the rows of `by_sequence`; all tokens about one image are a row of `by_image`, which leaves out other images. The n
    tokens `scored` (n,) are those whose next token has a weight in the loss; the `targets` and `weights` of these are
    those of each part, one after the other, each (n of the part,).
    """

    tokens: Tensor
    positions: Tensor
    sequences: Tensor
    image_index: Tensor
    by_sequence: Buckets
    by_image: Buckets
    scored: Tensor
    targets: tuple[Tensor, ...]
    weights: tuple[Tensor, ...]

    def by_part(self, scores: Tensor) -> Sequence[Tensor]:
        """What belongs to the scored tokens, (n, …), part by part."""
        return scores.split([len(targets) for targets in self.targets])


def pack(parts: Sequence[tuple[Tensor, Tensor, Tensor, Tensor]]) -> Packing:
    """Pack sequences that are padded: each of `parts` has their tokens, targets and weights (S, L), and the images (S,)
    that they are about.

    What no weight depends on, the end of a sequence behind its last weight, is left out. Where there is nothing, a
    sequence of one token that has no weight stands for it: a model has all its parameters in its graph then, as other
    processes expect.
    """
    scored = [(targets[weights > 0], weights[weights > 0]) for _, targets, weights, _ in parts]
    if not any(len(tokens) for tokens, *_ in parts):
        nothing = torch.zeros(1, 1, dtype=torch.long)
        parts = [(nothing, nothing, nothing, nothing[0])]
    rows = [(tokens.numpy(), weights.numpy() > 0) for tokens, _, weights, _ in parts]
    lengths = [np.where(weighted, np.arange(1, weighted.shape[1] + 1), 1).max(1) for _, weighted in rows]
    inside = [np.arange(tokens.shape[1]) < ends[:, None] for (tokens, _), ends in zip(rows, lengths, strict=True)]
    tokens = np.concatenate([tokens[kept] for (tokens, _), kept in zip(rows, inside, strict=True)])
    weighted = np.concatenate([weights[kept] for (_, weights), kept in zip(rows, inside, strict=True)])
    positions = np.concatenate([kept.nonzero()[1] for kept in inside])
    sequences = np.repeat(np.arange(sum(map(len, lengths))), np.concatenate(lengths))
    image_index = np.concatenate([images.numpy() for *_, images in parts])
    return Packing(
        *map(torch.from_numpy, (tokens, positions, sequences, image_index)),
        by_sequence=_buckets(sequences),
        by_image=_buckets(image_index[sequences]),
        scored=torch.from_numpy(weighted.nonzero()[0]),
        targets=tuple(targets for targets, _ in scored),
        weights=tuple(weights for _, weights in scored),
    )


def _buckets(row_of: np.ndarray) -> Buckets:
    """Buckets of tokens by the number of their row, (T,)."""
    order, counts = row_of.argsort(kind="stable"), np.bincount(row_of)
    starts = counts.cumsum() - counts
    numbers = np.flatnonzero(counts)
    numbers = numbers[counts[numbers].argsort(kind="stable")]
    slots = []
    for group in np.split(numbers, _bounds(counts[numbers])):
        column = np.arange(counts[group].max())
        inside = column < counts[group][:, None]
        token = order[np.where(inside, starts[group][:, None] + column, 0)]
        slots.append(np.where(inside, token, len(row_of)))
    joined = np.concatenate([part.ravel() for part in slots])
    place = np.empty(len(row_of), dtype=np.int64)
    filled = np.flatnonzero(joined < len(row_of))
    place[joined[filled]] = filled
    return Buckets(tuple(map(torch.from_numpy, slots)), torch.from_numpy(numbers), torch.from_numpy(place))


def _bounds(lengths: np.ndarray) -> np.ndarray:
    """Where to cut the ascending `lengths` into at most BUCKETS groups that need the least padding.

    By dynamic programming over the different lengths: `best[j]` is the smallest padded size of all rows up to the j-th
    length, `came[k][j]` where the last of k + 1 groups begins in it.
    """
    values, ends = np.unique(lengths, return_counts=True)
    ends = np.append(0, ends.cumsum())
    size = (ends[None, 1:] - ends[:-1, None]) * values.astype(float)  # of one group from length i to length j
    size[np.tril_indices(len(values), -1)] = np.inf
    best, came = size[0], []
    for _ in range(min(BUCKETS, len(values)) - 1):
        joined = np.append(np.inf, best[:-1])[:, None] + size
        came.append(joined.argmin(0))
        best = joined.min(0)
    cuts, last = [], len(values) - 1
    for begins in reversed(came):
        cuts.append(ends[begins[last]])
        last = begins[last] - 1
    return np.array(cuts[::-1], dtype=int)
