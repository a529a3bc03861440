"""Decode with an exported step graph, in numpy: what `models/generate.py` does in torch.

That one looks at what may stand at a place of the response, so that a GPU never waits; here the states of all sequences
are at hand, and only the tokens that these permit are looked at. Greedy choices are the same tokens, and so are sampled
ones but for the rounding of sums (tests compare them).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from pix2seq.models.sampling import LEAVING, Sampling, choosable
from pix2seq.token_ids import COORD_SHIFT, COORDS, END, INVISIBLE, is_coord
from pix2seq.tokenizers.vocabulary import Grammar


class Steps(Protocol):
    """A decoder with its caches: B prompts, each with G sequences."""

    def __call__(self, tokens: np.ndarray) -> np.ndarray:
        """Logits (B, G, V) after the next `tokens` (B, G); the caches grow by one."""

    def keep(self, rows: np.ndarray) -> None:
        """Forget all prompts but `rows`."""


@dataclass(frozen=True)
class Decoded:
    """By name, as fields of `Response` are called, what belongs to each place: (B, G, T) or (B, G, T, A)."""

    parts: Mapping[str, np.ndarray]

    @classmethod
    def empty(cls, shape: tuple[int, int, int], sampling: Sampling) -> Decoded:
        """All zero, to be filled in place by place."""
        parts = {"tokens": np.zeros(shape, np.int64), "probs": np.zeros(shape, np.float32)}
        if sampling.alternatives:
            several = *shape, sampling.alternatives
            parts |= {"alternatives": np.zeros(several, np.int64), "alternative_probs": np.zeros(several, np.float32)}
        if sampling.coords_too:
            parts |= {"coords": np.zeros(shape, np.int64), "coord_probs": np.zeros(shape, np.float32)}
        return cls(parts)

    def put(self, rows: np.ndarray, position: int, **parts: np.ndarray) -> None:
        """What `rows` have at a place."""
        for name, values in parts.items():
            self.parts[name][rows, :, position] = values

    def first(self, length: int) -> Decoded:
        """The first `length` places."""
        return Decoded({name: part[:, :, :length] for name, part in self.parts.items()})


def decode(
    steps: Steps,
    prompts: np.ndarray,
    chooser: Chooser,
    sampling: Sampling,
    draws: np.ndarray,
    listen: Callable[[Decoded], None] | None = None,
) -> Decoded:
    """Answer `prompts` (B, P), each with G responses of at most T tokens; `draws` (B, G, T), uniform in [0, 1), decide
    which are sampled. A response that has ended goes on with the end token; prompts all of whose responses have ended
    are dropped. `listen` is told of what has been decoded so far."""
    grammar, found, rows = chooser.grammar, Decoded.empty(draws.shape, sampling), np.arange(len(prompts))
    if not len(prompts):
        return found
    for token in prompts.T:
        logits = steps(np.repeat(token[:, None], draws.shape[1], axis=1))
    state = np.zeros(draws.shape[:2], np.int64)
    for position in range(draws.shape[2]):
        read, tokens, parts = chooser(logits, state, sampling, draws[rows, :, position])
        found.put(rows, position, **parts)
        state = grammar.next_state[state, tokens]
        going = (state != grammar.end).any(axis=1)
        if not going.any() or position + 1 == draws.shape[2]:
            break
        if listen is not None:
            listen(found.first(position + 1))
        if going.mean() <= 1 - LEAVING:
            steps.keep(np.flatnonzero(going))
            rows, state, read = rows[going], state[going], read[going]
        logits = steps(read)
    return found.first(position + 1)


class Chooser:
    """Chooses tokens that a grammar permits."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.drawable = grammar.allowed.copy()
        for state in grammar.greedy_states:
            self.drawable[state, list(grammar.unreported)] = True
        self._known: dict[bytes, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def __call__(
        self, logits: np.ndarray, state: np.ndarray, sampling: Sampling, draws: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """For `logits` (B, G, V), `state` (B, G) and `draws` (B, G): the tokens that the decoder reads next, those that
        are chosen, and the latter with all that `Decoded` is to hold of them."""
        states, index = np.unique(state, return_inverse=True)
        index = index.reshape(state.shape)
        ids, allowed, drawable = self._tables(states)
        some = logits[..., ids]
        permitted = np.where(allowed[index], some, -np.inf)
        within = np.where(drawable[index], some, -np.inf) if sampling.read_drawn else permitted
        drawn = chosen = choose(within, sampling, draws, ids)
        if sampling.read_drawn or not sampling.greedy:
            chosen = np.where(np.isin(state, self.grammar.greedy_states), permitted.argmax(axis=-1), chosen)
        tokens, going = ids[chosen], state != self.grammar.end
        parts = {"tokens": tokens} | self._probabilities(logits, permitted, chosen, ids, states, going, sampling)
        if sampling.coords_too:
            parts["coords"], parts["coord_probs"] = coords_of(tokens, logits)
        return ids[drawn] if sampling.read_drawn else tokens, tokens, parts

    def _tables(self, states: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The ids (K,) of tokens that some of `states` (n,) permit, and which each permits and may draw: (n, K)."""
        key = states.tobytes()
        if key not in self._known:
            ids = choosable(self.drawable[states])
            self._known[key] = ids, self.grammar.allowed[states][:, ids], self.drawable[states][:, ids]
        return self._known[key]

    def _probabilities(
        self,
        logits: np.ndarray,
        permitted: np.ndarray,
        chosen: np.ndarray,
        ids: np.ndarray,
        states: np.ndarray,
        going: np.ndarray,
        sampling: Sampling,
    ) -> dict[str, np.ndarray]:
        """Those in the softmax over the whole vocabulary, 0 after the end; NaN where the grammar wants none."""
        scored = self.grammar.scored_states
        if scored is not None and not np.isin(states, scored).any():
            return {"probs": np.where(going, np.nan, 0.0)}
        highest = logits.max(axis=-1, keepdims=True)
        total = np.exp(logits - highest).sum(axis=-1, keepdims=True)
        probs = np.exp(permitted - highest) / total * going[..., None]
        parts = {"probs": _at(probs, chosen)}
        if sampling.alternatives:
            count = min(sampling.alternatives, len(ids))
            best = np.argsort(-permitted, axis=-1, kind="stable")[..., :count]
            missing = [(0, 0), (0, 0), (0, sampling.alternatives - count)]
            parts["alternatives"] = np.pad(ids[best], missing)
            parts["alternative_probs"] = np.pad(np.take_along_axis(probs, best, axis=-1), missing)
        return parts


def choose(logits: np.ndarray, sampling: Sampling, draws: np.ndarray, ids: np.ndarray) -> np.ndarray:
    """The places (…) among `ids` (K,) of the next tokens, for `logits` (…, K), −inf where forbidden, and `draws`
    (…)."""
    if sampling.greedy:
        return choose_likeliest(logits, sampling, ids)
    cumulative = softmax(truncate_logits(logits / np.float32(sampling.temperature), sampling.top_k, sampling.top_p))
    cumulative = cumulative.astype(np.float64).cumsum(axis=-1)
    return (cumulative <= draws[..., None] * cumulative[..., -1:]).sum(axis=-1)


def truncate_logits(logits: np.ndarray, top_k: int, top_p: float) -> np.ndarray:
    """Put logits (…, K) outside the top k, and outside the nucleus of probability `top_p`, at −inf; the token that
    crosses `top_p` is dropped and the best one always stays."""
    if not (0 < top_k < logits.shape[-1]) and top_p >= 1:
        return logits
    ordered = -np.sort(-logits, axis=-1)
    if 0 < top_k < logits.shape[-1]:
        ordered = np.where(ordered < ordered[..., top_k - 1, None], -np.inf, ordered)
    inside = softmax(ordered).cumsum(axis=-1) <= top_p if top_p < 1 else ordered > -np.inf
    inside[..., 0] = True
    threshold = np.where(inside, ordered, np.inf).min(axis=-1, keepdims=True)
    return np.where(logits < threshold, -np.inf, logits)


def choose_likeliest(logits: np.ndarray, sampling: Sampling, ids: np.ndarray) -> np.ndarray:
    """The places (…) among `ids` (K,) of the likeliest tokens for `logits` (…, K), as `sampling` understands it."""
    for token, threshold in ((END, sampling.end_threshold), (INVISIBLE, sampling.invisible_threshold)):
        place = np.flatnonzero(ids == token)
        if threshold and len(place):
            unlikely = softmax(logits)[..., place] < threshold
            logits = np.where((ids == token) & unlikely, -np.inf, logits)
    chosen = logits.argmax(axis=-1)
    if not (sampling.coord_window and is_coord(ids).any()):
        return chosen
    first = int(np.flatnonzero(ids == COORDS.start)[0])
    last = first + COORDS.stop - COORDS.start - 1
    near = chosen[..., None] + np.arange(-sampling.coord_window, sampling.coord_window + 1)
    outside, near = (near < first) | (near > last), near.clip(first, last)
    shares = softmax(np.where(outside, -np.inf, np.take_along_axis(logits, near, axis=-1)))
    mean = np.rint((shares * (near - first)).sum(axis=-1)) + first
    return np.where(is_coord(ids[chosen]), np.nan_to_num(mean).astype(np.int64), chosen)


def coords_of(tokens: np.ndarray, logits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """`tokens` (…) where they are coordinates, elsewhere the likeliest coordinates of `logits` (…, V), and their
    probabilities in the softmax without INVISIBLE."""
    logits = logits.copy()
    logits[..., INVISIBLE] = -np.inf
    probs = softmax(logits)
    coords = np.where(is_coord(tokens), tokens, probs[..., COORDS].argmax(axis=-1) + COORD_SHIFT)
    return coords, _at(probs, coords)


def softmax(logits: np.ndarray) -> np.ndarray:
    """Over the last dimension; NaN where all are −inf."""
    with np.errstate(invalid="ignore"):
        shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shares / shares.sum(axis=-1, keepdims=True)


def _at(values: np.ndarray, places: np.ndarray) -> np.ndarray:
    """`values` (…, K) at `places` (…)."""
    return np.take_along_axis(values, places[..., None], axis=-1)[..., 0]
