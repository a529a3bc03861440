"""How well single tokens are said: accuracy by role and by position, perplexity, and obedience without a grammar."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from pix2seq import config
from pix2seq.infer.predictor import Answer, Predictor
from pix2seq.models.generate import GrammarTables
from pix2seq.tokenizers.vocabulary import (
    CLASS_SHIFT,
    COORD_SHIFT,
    END,
    FAKE,
    INVISIBLE,
    SEPARATOR,
    TEXT_SHIFT,
    Grammar,
    is_coord,
)

ROLES = ("y", "x", "class", "text", "end", "separator", "invisible", "fake")
TASK_ROLES = {
    "detection": ("y", "x", "class", "end", "fake"),
    "segmentation": ("y", "x", "separator", "end"),
    "keypoint": ("y", "x", "invisible"),
    "captioning": ("text", "end"),
}


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
    """How many taught tokens were likeliest (`right`) among all (`asked`): by role (ROLES,) and by position (any,) in
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
        taught = weights > 0
        start = taught.long().argmax(dim=1, keepdim=True)  # where the answer begins, after the prompt
        position = (torch.arange(targets.shape[1], device=targets.device) - start)[taught].cpu()
        roles = token_roles(targets, self.text_end)[taught].cpu()
        chosen, wanted = logits[taught].float(), targets[taught]
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
        """Share of the likeliest tokens that are the taught ones, 0 to 1, by role, for the roles that occurred."""
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


def token_columns(tasks: Sequence[str]) -> list[str]:
    """The names that `token_numbers` may give."""
    accuracies = [f"accuracy/{task}/{role}" for task in tasks for role in TASK_ROLES[task]]
    return accuracies + [f"perplexity/{task}" for task in tasks]


def token_numbers(counts: Mapping[str, TokenCounts]) -> dict[str, float]:
    """Accuracy by role and perplexity of each task that occurred, by name."""
    told = {task: count for task, count in counts.items() if count.asked.any()}
    numbers = {f"accuracy/{task}/{role}": value for task in told for role, value in told[task].accuracy.items()}
    return numbers | {f"perplexity/{task}": count.perplexity for task, count in told.items()}


def _sum(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    length = max(len(one), len(other))
    return np.pad(one, (0, length - len(one))) + np.pad(other, (0, length - len(other)))


class FreePredictor(Predictor):
    """`predictor`, greedy and without grammars; `valid` counts, by task, which of the `asked` obey them anyway."""

    def __init__(self, predictor: Predictor) -> None:
        vars(self).update(vars(predictor))
        self.cfg = config.replace(predictor.cfg, num_samples=1)
        self.bound = {task: predictor.tokenizers[task].grammar() for task in predictor.trained_tasks}
        self.grammars = {task: self._any_token(tables) for task, tables in predictor.grammars.items()}
        self.valid, self.asked = dict.fromkeys(self.bound, 0), dict.fromkeys(self.bound, 0)

    def _any_token(self, tables: GrammarTables) -> GrammarTables:
        """Any token until the end token."""
        grammar = Grammar(1, self.cfg.model.vocab_size)
        grammar.allow(0, slice(None), 0)
        grammar.allow(0, END, grammar.end)
        allowed, next_state = (torch.from_numpy(t).to(self.device) for t in (grammar.allowed, grammar.next_state))
        return replace(tables, allowed=allowed, next_state=next_state, end=grammar.end)

    def _answers(self, task: str, *question, **how) -> list[Answer]:
        answers = super()._answers(task, *question, **how)
        self.valid[task] += sum(obeys(answer.tokens, self.bound[task]) for answer in answers)
        self.asked[task] += len(answers)
        return answers


def obeys(tokens: Sequence[int], grammar: Grammar) -> bool:
    """Whether every one of `tokens` is what `grammar` allows there, as far as its end; an answer may be cut before."""
    state = 0
    for token in tokens:
        if state == grammar.end:
            break
        if not grammar.allowed[state, token]:
            return False
        state = grammar.next_state[state, token]
    return True
