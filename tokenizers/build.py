"""The tokenizers of several tasks, which share one label space."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pix2seq.config import CFG, ModelCFG, flag
from pix2seq.errors import UserError
from pix2seq.tokenizers.vocabulary import LabelSpace, Tokenizer, max_length

if TYPE_CHECKING:
    from pix2seq.task import Task


@dataclass(frozen=True)
class Tokenizers:
    """The tokenizer of each task by name, for models of `vocab_size` token ids that stand for `labels`."""

    by_task: Mapping[str, Tokenizer]
    labels: LabelSpace
    vocab_size: int

    @classmethod
    def build(cls, tasks: Mapping[str, Task], cfg: CFG, labels: LabelSpace) -> Tokenizers:
        """Those of `tasks`."""
        by_task = {name: task.tokenizer(cfg, labels) for name, task in tasks.items()}
        return cls(by_task, labels, cfg.model.vocab_size)

    def __getitem__(self, task: str) -> Tokenizer:
        return self.by_task[task]

    def check_lengths(self, model: ModelCFG, limits: Mapping[str, str]) -> None:
        """Raise UserError unless the longest sequences fit into the decoder; `limits` names each task's setting."""
        for task, tokenizer in self.by_task.items():
            if (length := max_length(tokenizer)) > model.max_tokens:
                limit = limits[task]
                raise UserError(
                    f"{task} has sequences of up to {length} tokens ({flag(limit)} {getattr(model, limit)}), but "
                    f"--max-tokens is {model.max_tokens}; lower the one or raise the other"
                )
