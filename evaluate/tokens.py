"""How well single tokens are predicted: accuracy by role and position, perplexity, and validity without a grammar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pix2seq.dataset.geometry import Geometry
from pix2seq.infer.generator import Encoded, ModelGenerator
from pix2seq.infer.responses import Response
from pix2seq.models.sampling import Sampling
from pix2seq.token_ids import CLASS_SHIFT, COORD_SHIFT, END, FAKE, INVISIBLE, SEPARATOR, TEXT_SHIFT, is_coord
from pix2seq.tokenizers.vocabulary import Grammar, Tokenizer

ROLES = ("y", "x", "class", "text", "end", "separator", "invisible", "fake")


def token_roles(targets: Tensor, text_end: int = END) -> Tensor:
    """Indices in ROLES (S, L) of target tokens (S, L); `text_end` is the token that ends a caption.

    Coordinates come in pairs, y before x, from the start, and anew after a class and a separator.
    """
    position = torch.arange(targets.shape[1], device=targets.device).expand_as(targets)
    in_pair = is_coord(targets) | (targets == INVISIBLE)
    last_other = torch.where(in_pair, -1, position).cummax(dim=1).values
    is_class = (targets >= CLASS_SHIFT) & (targets < COORD_SHIFT)
    roles = ((position - last_other) % 2 == 0).long()  # 0 is y, 1 is x
    for name, chosen in (
        ("class", is_class),
        ("text", targets >= TEXT_SHIFT),
        ("end", (targets == END) | (targets == text_end)),
        ("separator", targets == SEPARATOR),
        ("invisible", targets == INVISIBLE),
        ("fake", targets == FAKE),
    ):
        roles = roles.masked_fill(chosen, ROLES.index(name))
    return roles


@dataclass
class TokenCounts:
    """How many target tokens were likeliest (`right`) among all (`asked`): by role (ROLES,) and by position (any,) in
    the answer; `surprise` is the sum of −log of their probabilities. `text_end` is the token that ends a caption."""

    text_end: int = END
    right: np.ndarray = field(default_factory=lambda: np.zeros(len(ROLES), np.int64))
    asked: np.ndarray = field(default_factory=lambda: np.zeros(len(ROLES), np.int64))
    right_at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    asked_at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    surprise: float = 0.0

    @torch.no_grad()
    def add(self, logits: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Count the tokens with a weight: `logits` (S, L, V), `targets` and `weights` (S, L)."""
        counted = weights > 0
        start = counted.long().argmax(dim=1, keepdim=True)  # where the response begins, after the prompt
        position = (torch.arange(targets.shape[1], device=targets.device) - start)[counted].cpu()
        roles = token_roles(targets, self.text_end)[counted].cpu()
        chosen, wanted = logits[counted].float(), targets[counted]
        right = (chosen.argmax(-1) == wanted).cpu()
        self.surprise += F.cross_entropy(chosen, wanted, reduction="none").cpu().double().sum().item()
        self.right += torch.bincount(roles[right], minlength=len(ROLES)).numpy()
        self.asked += torch.bincount(roles, minlength=len(ROLES)).numpy()
        self.right_at = _sum(self.right_at, torch.bincount(position[right]).numpy())
        self.asked_at = _sum(self.asked_at, torch.bincount(position).numpy())

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(
            self.text_end,
            self.right + other.right,
            self.asked + other.asked,
            _sum(self.right_at, other.right_at),
            _sum(self.asked_at, other.asked_at),
            self.surprise + other.surprise,
        )

    @property
    def accuracy(self) -> dict[str, float]:
        """Share of the likeliest tokens that are the targets, 0 to 1, by role, for the roles that occurred."""
        return {role: int(r) / int(n) for role, r, n in zip(ROLES, self.right, self.asked, strict=True) if n}

    @property
    def accuracy_by_position(self) -> list[float]:
        """The same by position in the answer, from its first token."""
        right = np.pad(self.right_at, (0, len(self.asked_at) - len(self.right_at)))
        return [round(int(r) / int(n), 4) for r, n in zip(right, self.asked_at, strict=True) if n]

    @property
    def perplexity(self) -> float:
        """exp of the mean surprise of a token: as many equally likely tokens would leave the model as unsure."""
        return math.exp(min(self.surprise / max(int(self.asked.sum()), 1), 100.0))


def token_columns(tokenizers: Mapping[str, Tokenizer]) -> list[str]:
    """The names that `token_numbers` may give."""
    accuracies = [f"accuracy/{task}/{role}" for task, tokenizer in tokenizers.items() for role in tokenizer.roles]
    return accuracies + [f"perplexity/{task}" for task in tokenizers]


def token_numbers(counts: Mapping[str, TokenCounts]) -> dict[str, float]:
    """Accuracy by role and perplexity of each task that occurred, by name."""
    occurred = {task: count for task, count in counts.items() if count.asked.any()}
    numbers = {f"accuracy/{task}/{role}": value for task in occurred for role, value in occurred[task].accuracy.items()}
    return numbers | {f"perplexity/{task}": count.perplexity for task, count in occurred.items()}


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    length = max(len(one), len(other))
    return np.pad(one, (0, length - len(one))) + np.pad(other, (0, length - len(other)))


class UnconstrainedGenerator:
    """The responses of `generator`'s model, greedy and without grammars; `valid` counts, by task, which of the `asked`
    obey them anyway. They are greedy whatever sampling is asked for: one response stands for all samples."""

    def __init__(self, generator: ModelGenerator) -> None:
        self.grammars = {task: tokenizer.grammar() for task, tokenizer in generator.tokenizers.items()}
        free = {task: Grammar.unconstrained(generator.model.cfg.vocab_size) for task in self.grammars}
        options = generator.device, generator.chunk_size, generator.seed
        self.generator = ModelGenerator(generator.model, generator.tokenizers, *options, free)
        self.valid, self.asked = dict.fromkeys(self.grammars, 0), dict.fromkeys(self.grammars, 0)

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        """See SequenceGenerator."""
        return self.generator.encode(images, geometries)

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        """See SequenceGenerator."""
        greedy = sampling if sampling.greedy else Sampling()
        responses = self.generator.generate(task, encoded, prompts, greedy, 1)
        self.valid[task] += sum(self.grammars[task].accepts(response.tokens) for response in responses)
        self.asked[task] += len(responses)
        return [response for response in responses for _ in range(num_samples)]
