"""Tensors that hold infinities or NaN are neither kept nor used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, isfinite

from pix2seq.errors import UserError


def not_finite(state: Any, name: str = "") -> Iterator[str]:
    """The names of the tensors in nested mappings and lists that hold infinities or NaN."""
    if isinstance(state, Tensor):
        if state.is_floating_point() and not bool(isfinite(state).all()):
            yield name
    elif isinstance(state, (Mapping, list, tuple)):
        items = state.items() if isinstance(state, Mapping) else enumerate(state)
        for key, value in items:
            yield from not_finite(value, f"{name}.{key}" if name else str(key))


def require_finite(state: Any, what_is: str, then: str) -> None:
    """Raise UserError if a tensor of `state` is not finite; `what_is` begins the sentence, `then` says what to do."""
    names = list(not_finite(state))
    if names:
        raise UserError(f"{what_is} not finite in {len(names)} tensors, among them {names[0]}; {then}")
