"""Score captions: corpus BLEU-1 to BLEU-4 over all reference captions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field

from dataset.coco import Example
from tokenizers.captioning import split_words

ORDERS = (1, 2, 3, 4)


@dataclass
class CaptionScore:
    """Collects a caption of each picture beside its references, as words."""

    references: list[list[list[str]]] = field(default_factory=list)
    captions: list[list[str]] = field(default_factory=list)

    def add(self, example: Example, caption: str) -> None:
        """The caption of a picture; pictures without references do not count."""
        if example.captions:
            self.references.append([split_words(reference) for reference in example.captions])
            self.captions.append(split_words(caption))

    def metrics(self) -> dict[str, float]:
        """BLEU-1 to BLEU-4, each 0 to 1."""
        return {f"BLEU-{order}": bleu(self.references, self.captions, order) for order in ORDERS}


def bleu(references: Sequence[Sequence[list[str]]], captions: Sequence[list[str]], order: int) -> float:
    """Corpus BLEU of n-grams up to `order`, equally weighted."""
    from nltk.translate.bleu_score import corpus_bleu  # slow to import

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no n-gram in common is a score of zero, not a mistake
        return float(corpus_bleu(references, captions, [1 / order] * order)) if captions else 0.0
