"""Decode answers to prompts: greedy or sampled, held to a grammar, many prompts on one encoding."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.sampling import GREEDY, Sampling
from pix2seq.token_ids import COORDS, END, INVISIBLE, is_coord

CHECK_EVERY = 4  # steps between two checks whether all sequences have ended: each check makes a GPU wait


@dataclass(frozen=True)
class GrammarTables:
    """A grammar on the device: `allowed` (states, V) bool, `next_state` (states, V), and the state `end`.

    In `greedy_states` the likeliest token is chosen even where the others are sampled; `unreported` tokens are never
    chosen there, but sampling may draw them for the decoder to read (see `Sampling.read_drawn`).
    """

    allowed: Tensor
    next_state: Tensor
    end: int
    greedy_states: tuple[int, ...] = ()
    unreported: tuple[int, ...] = ()

    @property
    def drawable(self) -> Tensor:
        """`allowed` (states, V), with the `unreported` tokens."""
        table = self.allowed.clone()
        for state in self.greedy_states:
            table[state, list(self.unreported)] = True
        return table


@dataclass(frozen=True)
class Generation:
    """`tokens` (S, T) without the prompts, and their `probs` (S, T); both are 0 after the end.

    A probability is that of the softmax over the whole vocabulary, before grammar, temperature and truncation. The
    likeliest tokens that the grammar permits at each place are `alternatives` (S, T, A), and `alternative_probs`.
    """

    tokens: Tensor
    probs: Tensor
    alternatives: Tensor
    alternative_probs: Tensor


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


def choose(logits: Tensor, sampling: Sampling, draws: Tensor, predictable: Tensor) -> Tensor:
    """The next tokens (S,) for logits (S, V); `draws` (S,), uniform in [0, 1), decide which are sampled.

    All logits but those of `predictable` (K,) are −inf: to sort a whole vocabulary of text would take a decoder's time.
    """
    if sampling.greedy:
        return choose_likeliest(logits, sampling)
    logits = truncate_logits(logits[:, predictable] / sampling.temperature, sampling.top_k, sampling.top_p)
    wide = torch.float32 if logits.device.type == "mps" else torch.float64  # MPS has no wider numbers
    cumulative = logits.softmax(-1).to(wide).cumsum(-1)
    return predictable[torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)[:, 0]]


def choose_likeliest(logits: Tensor, sampling: Sampling) -> Tensor:
    """The likeliest tokens (S,) for logits (S, V), as `sampling` understands it."""
    for token, threshold in ((END, sampling.end_threshold), (INVISIBLE, sampling.invisible_threshold)):
        if threshold:
            unlikely = logits.softmax(-1)[:, token] < threshold
            logits = logits.clone()
            logits[unlikely, token] = -torch.inf
    chosen = logits.argmax(-1)
    if not sampling.coord_window:
        return chosen
    near = chosen[:, None] + torch.arange(-sampling.coord_window, sampling.coord_window + 1, device=logits.device)
    inside = is_coord(near)
    near = near.clamp(COORDS.start, COORDS.stop - 1)
    shares = logits.gather(1, near).masked_fill(~inside, -torch.inf).softmax(-1)
    mean = (shares * near).sum(-1).round()
    return torch.where(is_coord(chosen), mean.nan_to_num().long(), chosen)


@torch.inference_mode()
def generate(
    model: Pix2Seq,
    memory: Tensor,
    prompts: Tensor,
    image_index: Tensor,
    grammar: GrammarTables,
    max_tokens: int,
    sampling: Sampling = GREEDY,
    num_samples: int = 1,
    draws: Tensor | None = None,
) -> Generation:
    """Answer `prompts` (S, P) about `memory` (B, N, D) with at most `max_tokens` tokens each.

    `image_index` (S,) is the image that a prompt is about. Each prompt gets `num_samples` responses: the rows of the
    result are prompt-major (S · num_samples). `draws` (S · num_samples, max_tokens), uniform in [0, 1), are the random
    numbers of sampling: a row depends on its own ones alone. Decoding stops when every sequence has ended;
    rows that have ended are dropped once they are the half.
    """
    prompts = prompts.repeat_interleave(num_samples, 0)
    image_index = image_index.repeat_interleave(num_samples, 0)
    rows = torch.arange(len(prompts), device=memory.device)  # the responses that have not ended
    cache = model.start(memory, image_index, prompts.shape[1] + max_tokens)
    state = torch.zeros_like(rows)
    tokens = torch.zeros(len(rows), max_tokens, dtype=torch.long, device=memory.device)
    probs = torch.zeros(len(rows), max_tokens, device=memory.device)
    drawable = grammar.drawable if sampling.read_drawn else grammar.allowed
    predictable = drawable.any(0).nonzero()[:, 0]
    count = min(sampling.alternatives, len(predictable))
    alternatives = torch.zeros(*tokens.shape, count, dtype=torch.long, device=memory.device)
    alternative_probs = torch.zeros(alternatives.shape, device=memory.device)
    draws = torch.rand(tokens.shape, device=memory.device) if draws is None else draws
    following = prompts
    for position in range(max_tokens):
        logits = model.step(following, cache).float()
        permitted = logits.masked_fill(~grammar.allowed[state], -torch.inf)
        within = logits.masked_fill(~drawable[state], -torch.inf) if sampling.read_drawn else permitted
        drawn = chosen = choose(within, sampling, draws[rows, position], predictable)[:, None]
        if sampling.read_drawn or not sampling.greedy:
            for greedy_state in grammar.greedy_states:
                chosen = chosen.where(state[:, None] != greedy_state, permitted.argmax(-1, keepdim=True))
        tokens[rows, position] = chosen[:, 0]
        total, going = logits.logsumexp(-1, keepdim=True), (state != grammar.end)[:, None]
        probs[rows, position] = ((logits.gather(1, chosen) - total).exp() * going)[:, 0]
        if count:
            best = permitted[:, predictable].topk(count)
            alternatives[rows, position] = predictable[best.indices]
            alternative_probs[rows, position] = (best.values - total).exp() * going
        state = grammar.next_state[state, chosen[:, 0]]
        following = drawn if sampling.read_drawn else chosen
        if position % CHECK_EVERY == CHECK_EVERY - 1:
            going = (state != grammar.end).nonzero()[:, 0]
            if len(going) == 0:
                break
            if len(going) <= len(state) // 2:
                cache.keep(going)
                rows, state, following = rows[going], state[going], following[going]
    parts = tokens, probs, alternatives, alternative_probs
    return Generation(*(part[:, : position + 1] for part in parts))
