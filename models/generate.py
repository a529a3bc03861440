"""Decode answers to prompts: greedy or sampled, held to a grammar, many prompts on one encoding."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from pix2seq.models.choices import Choice, GrammarTables, Part
from pix2seq.models.sampling import GREEDY, Sampling
from pix2seq.models.step import Cache
from pix2seq.token_ids import COORD_SHIFT, COORDS, END, INVISIBLE, is_coord

CHECK_EVERY = 4  # steps between two checks which sequences have ended: each check makes a GPU wait


@dataclass(frozen=True)
class Generation:
    """`tokens` (S, T) without the prompts, and their `probs` (S, T); both are 0 after the end.

    A probability is that of the softmax over the whole vocabulary, before grammar, temperature and truncation; NaN
    where the grammar wants none, as it would cost the logits of the whole vocabulary. The likeliest tokens that it
    permits are `alternatives` (S, T, A), and `alternative_probs`: where it wants probabilities, elsewhere both are 0.
    `coords` (S, T) and `coord_probs` are those of `coords_of`, 0 unless they are asked for.
    """

    tokens: Tensor
    probs: Tensor
    alternatives: Tensor
    alternative_probs: Tensor
    coords: Tensor
    coord_probs: Tensor

    @classmethod
    def empty(cls, rows: int, length: int, alternatives: int, device: torch.device) -> Generation:
        """All zero, to be filled in place by place."""
        tokens = torch.zeros(rows, length, dtype=torch.long, device=device)
        probs = torch.zeros(rows, length, device=device)
        shape = rows, length, alternatives
        alternatives = tokens.new_zeros(shape), probs.new_zeros(shape)
        return cls(tokens, probs, *alternatives, torch.zeros_like(tokens), torch.zeros_like(probs))

    def report(
        self, rows: Tensor, position: int, choice: Choice, chosen: Tensor, permitted: Tensor, probs: Tensor
    ) -> None:
        """Fill in the probabilities at a place: `probs` (S, K) of `choice.part`, of which `chosen` (S,) were chosen."""
        self.probs[rows, position] = probs.gather(1, chosen[:, None])[:, 0]
        count = min(self.alternatives.shape[2], permitted.shape[1])
        best = permitted.topk(count).indices
        self.alternatives[rows, position, :count] = choice.part.ids[best]
        self.alternative_probs[rows, position, :count] = probs.gather(1, best)

    def first(self, length: int) -> Generation:
        """The first `length` places."""
        return Generation(*(part[:, :length] for part in vars(self).values()))


def truncate_logits(logits: Tensor, top_k: int, top_p: float) -> Tensor:
    """Put logits (S, V) outside the top k, and outside the nucleus of probability `top_p`, at −inf.

    The token that crosses `top_p` is dropped and the best token always stays, as in the official code.
    """
    if 0 < top_k < logits.shape[-1]:
        threshold = logits.topk(top_k).values[:, -1:]
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    if top_p < 1:
        ordered = logits.sort(descending=True).values
        inside = ordered.softmax(-1).cumsum(-1) <= top_p
        inside[:, 0] = True
        threshold = ordered.masked_fill(~inside, torch.inf).min(-1, keepdim=True).values
        logits = logits.masked_fill(logits < threshold, -torch.inf)
    return logits


def choose(logits: Tensor, sampling: Sampling, draws: Tensor, part: Part) -> Tensor:
    """The places (S,) of the next tokens in `part`, for logits (S, K), −inf where forbidden; `draws` (S,), uniform in
    [0, 1), decide which are sampled."""
    if sampling.greedy:
        return choose_likeliest(logits, sampling, part)
    logits = truncate_logits(logits / sampling.temperature, sampling.top_k, sampling.top_p)
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no wider numbers
    cumulative = logits.softmax(-1).to(wide).cumsum(-1)
    return torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]


def choose_likeliest(logits: Tensor, sampling: Sampling, part: Part) -> Tensor:
    """The places (S,) of the likeliest tokens in `part` for logits (S, K), as `sampling` understands it."""
    for token, threshold in ((END, sampling.end_threshold), (INVISIBLE, sampling.invisible_threshold)):
        place = part.find(token)
        if threshold and place is not None:
            unlikely = logits.softmax(-1)[:, place] < threshold
            logits = logits.clone()
            logits[:, place].masked_fill_(unlikely, -torch.inf)
    chosen = logits.argmax(-1)
    first = part.find(COORDS.start)
    if not sampling.coord_window or first is None:
        return chosen
    last = first + COORDS.stop - COORDS.start - 1
    near = chosen[:, None] + torch.arange(-sampling.coord_window, sampling.coord_window + 1, device=logits.device)
    outside = (near < first) | (near > last)
    near = near.clamp(first, last)
    shares = logits.gather(1, near).masked_fill(outside, -torch.inf).softmax(-1)
    mean = (shares * (near - first)).sum(-1).round() + first
    return torch.where((chosen >= first) & (chosen <= last), mean.nan_to_num().long(), chosen)


def coords_of(tokens: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """`tokens` (…) where they are coordinates, elsewhere the likeliest coordinates of `logits` (…, V), and their
    probabilities in the softmax without INVISIBLE.

    As in the official evaluation, which however draws the missing ones from a nucleus, and lets more than that through.
    """
    probs = logits.float().index_fill(-1, tokens.new_full((), INVISIBLE), -torch.inf).softmax(-1)
    coords = torch.where(is_coord(tokens), tokens, probs[..., COORDS].argmax(-1) + COORD_SHIFT)
    return coords, probs.gather(-1, coords[..., None])[..., 0]


class Decoding(Protocol):
    """What `generate` decodes with: a `StepDecoder`."""

    def start(self, memory: Tensor, image_index: Tensor, max_length: int) -> Cache:
        """An empty cache for S sequences of at most `max_length` tokens over `memory` (B, N, D)."""

    def step(self, tokens: Tensor, cache: Cache, part: Part | None = None) -> Tensor:
        """Logits (S, K) of a part of the vocabulary, or of all of it, after the next `tokens` (S, T)."""


@torch.inference_mode()
def generate(
    decoder: Decoding,
    memory: Tensor,
    prompts: Tensor,
    image_index: Tensor,
    grammar: GrammarTables,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    num_samples: int = 1,
    draws: Tensor | None = None,
    listen: Callable[[Generation], None] | None = None,
) -> Generation:
    """Answer `prompts` (S, P) about `memory` (B, N, D) with at most `max_tokens` tokens each.

    `image_index` (S,) is the image that a prompt is about. Each prompt gets `num_samples` responses: the rows of the
    result are prompt-major (S · num_samples). `draws` (S · num_samples, max_tokens), uniform in [0, 1), are the random
    numbers of sampling: a row depends on its own ones alone. Decoding stops when every sequence has ended;
    rows that have ended are dropped once they are the share `leaving` of the cache. `listen` is told of what has been
    generated so far.
    """
    prompts = prompts.repeat_interleave(num_samples, 0)
    image_index = image_index.repeat_interleave(num_samples, 0)
    found = Generation.empty(len(prompts), max_tokens, sampling.alternatives, memory.device)
    if not len(prompts):
        return found
    draws = torch.rand(found.tokens.shape, device=memory.device) if draws is None else draws
    rows = torch.arange(len(prompts), device=memory.device)  # the responses that have not ended
    cache = decoder.start(memory, image_index, prompts.shape[1] + max_tokens)
    state, following = torch.zeros_like(rows), prompts
    for position, choice in zip(range(max_tokens), grammar.choices(), strict=False):
        whole = choice.whole or sampling.coords_too
        everything = decoder.step(following, cache, None if whole else choice.part).float()
        logits = everything[:, choice.part.ids] if whole else everything
        permitted = logits.masked_fill(~choice.allowed[state], -torch.inf)
        within = logits.masked_fill(~choice.drawable[state], -torch.inf) if sampling.read_drawn else permitted
        drawn = chosen = choose(within, sampling, draws[rows, position], choice.part)
        if sampling.read_drawn or not sampling.greedy:
            for greedy_state in grammar.greedy_states:
                chosen = chosen.where(state != greedy_state, permitted.argmax(-1))
        found.tokens[rows, position] = tokens = choice.part.ids[chosen]
        if sampling.coords_too:
            found.coords[rows, position], found.coord_probs[rows, position] = coords_of(tokens, everything)
        going = state != grammar.end
        if choice.whole:
            total = everything.logsumexp(-1, keepdim=True)
            found.report(rows, position, choice, chosen, permitted, (permitted - total).exp() * going[:, None])
        else:
            found.probs[rows, position] = torch.where(going, torch.nan, 0.0)
        state = choice.next_state[state, chosen]
        following = choice.part.ids[drawn if sampling.read_drawn else chosen][:, None]
        if position % CHECK_EVERY == CHECK_EVERY - 1:
            if listen is not None:
                listen(found.first(position + 1))
            going = (state != grammar.end).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) <= (1 - cache.leaving) * len(state):
                cache.keep(going)
                rows, state, following = rows[going], state[going], following[going]
    return found.first(position + 1)
