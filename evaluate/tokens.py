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
from pix2seq.infer.encoded import Encoded
from pix2seq.infer.generator import ModelGenerator
from pix2seq.infer.responses import Response
from pix2seq.models.sampling import Sampling
from pix2seq.token_ids import CLASS_SHIFT, COORD_SHIFT, END, FAKE, INVISIBLE, SEPARATOR, TEXT_SHIFT, is_coord
from pix2seq.tokenizers.vocabulary import Grammar, Tokenizer

ROLES = ("y", "x", "class", "text", "end", "separator", "invisible", "fake")


def token_roles(targets: Tensor, text_end: int = END) -> Tensor:
    """Indices in ROLES (S, L) of target tokens (S, L); `text_end` is the token that ends a caption.

    Coordinates come in pairs, y before x; a pair begins at the start and after each class or separator token.
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
    """Numbers of target tokens, all (`total`) and those that are the likeliest tokens (`correct`): by role (ROLES,) and
    by position (any,) in the response. `nll` is the sum of −log of their probabilities; `text_end` ends a caption."""

    text_end: int = END
    correct: np.ndarray = field(default_factory=lambda: np.zeros(len(ROLES), np.int64))
    total: np.ndarray = field(default_factory=lambda: np.zeros(len(ROLES), np.int64))
    correct_at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    total_at: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))
    nll: float = 0.0

    @torch.no_grad()
    def add(self, logits: Tensor, targets: Tensor, weights: Tensor) -> None:
        """Count the n tokens with a positive weight, whose `logits` are (n, V); `targets` and `weights` are (S, L)."""
        counted = weights > 0
        start = counted.long().argmax(dim=1, keepdim=True)  # where the response begins, after the prompt
        position = (torch.arange(targets.shape[1], device=targets.device) - start)[counted].cpu()
        roles = token_roles(targets, self.text_end)[counted].cpu()
        chosen, wanted = logits.float(), targets[counted].to(logits.device)
        correct = (chosen.argmax(-1) == wanted).cpu()
        self.nll += F.cross_entropy(chosen, wanted, reduction="none").cpu().double().sum().item()
        self.correct += torch.bincount(roles[correct], minlength=len(ROLES)).numpy()
        self.total += torch.bincount(roles, minlength=len(ROLES)).numpy()
        self.correct_at = _sum(self.correct_at, torch.bincount(position[correct]).numpy())
        self.total_at = _sum(self.total_at, torch.bincount(position).numpy())

    def __add__(self, other: TokenCounts) -> TokenCounts:
        return TokenCounts(
            self.text_end,
            self.correct + other.correct,
            self.total + other.total,
            _sum(self.correct_at, other.correct_at),
            _sum(self.total_at, other.total_at),
            self.nll + other.nll,
        )

    @property
    def accuracy(self) -> dict[str, float]:
        """Share of target tokens that are the likeliest, 0 to 1, by role, for the roles that occurred."""
        return {role: int(r) / int(n) for role, r, n in zip(ROLES, self.correct, self.total, strict=True) if n}

    @property
    def accuracy_by_position(self) -> list[float]:
        """The same by position in the response, from its first token."""
        correct = np.pad(self.correct_at, (0, len(self.total_at) - len(self.correct_at)))
        return [round(int(r) / int(n), 4) for r, n in zip(correct, self.total_at, strict=True) if n]

    @property
    def perplexity(self) -> float:
        """exp of the mean negative log likelihood of a target token."""
        return math.exp(min(self.nll / max(int(self.total.sum()), 1), 100.0))


def token_columns(tokenizers: Mapping[str, Tokenizer]) -> list[str]:
    """The names of all metrics that `token_numbers` may return."""
    accuracies = [f"accuracy/{task}/{role}" for task, tokenizer in tokenizers.items() for role in tokenizer.roles]
    return accuracies + [f"perplexity/{task}" for task in tokenizers]


def token_numbers(counts: Mapping[str, TokenCounts]) -> dict[str, float]:
    """Accuracy by role and perplexity of each task that occurred, by name."""
    occurred = {task: count for task, count in counts.items() if count.total.any()}
    numbers = {f"accuracy/{task}/{role}": value for task in occurred for role, value in occurred[task].accuracy.items()}
    return numbers | {f"perplexity/{task}": count.perplexity for task, count in occurred.items()}


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    length = max(len(one), len(other))
    return np.pad(one, (0, length - len(one))) + np.pad(other, (0, length - len(other)))


class UnconstrainedGenerator:
    """The responses of `generator`'s model, decoded greedily and without grammars.

    `valid` counts, by task, how many of the `total` responses the grammar would have allowed. Decoding is greedy even
    if sampling is requested: then one response is repeated for all samples.
    """

    def __init__(self, generator: ModelGenerator) -> None:
        self.grammars = {task: tokenizer.grammar() for task, tokenizer in generator.tokenizers.items()}
        free = {task: Grammar.unconstrained(generator.model.cfg.vocab_size) for task in self.grammars}
        self.generator = generator.with_grammars(free)
        self.valid, self.total = dict.fromkeys(self.grammars, 0), dict.fromkeys(self.grammars, 0)

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        """See SequenceGenerator."""
        return self.generator.encode(images, geometries)

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        """See SequenceGenerator."""
        greedy = sampling if sampling.greedy else Sampling(coords_too=sampling.coords_too)
        responses = self.generator.generate(task, encoded, prompts, greedy, 1)
        self.valid[task] += sum(self.grammars[task].accepts(response.tokens) for response in responses)
        self.total[task] += len(responses)
        return [response for response in responses for _ in range(num_samples)]
