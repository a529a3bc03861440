"""Of several sampled captions, the one that is most like the others.

What a model believes is spread over many captions that say the same in other words; a greedy one is often a rare
mixture of them. Kept is the most typical sample, as in consensus captions (Devlin et al., arXiv 1505.04467) and
minimum-risk decoding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

ORDERS = (1, 2)  # single words and pairs; longer ones reward the order of words more than what is said


def by_typicality(captions: Sequence[str]) -> list[int]:
    """The captions' indices by their mean likeness to all of them, the highest first; equals as they come."""
    return np.argsort(-likeness(captions).mean(axis=1).round(9), kind="stable").tolist()


def likeness(captions: Sequence[str]) -> np.ndarray:
    """(n, n): F1 of the words that two captions share, and of the pairs of words, in the mean; 1 for the same words."""
    return np.mean([_shared([_ngrams(caption.split(), order) for caption in captions]) for order in ORDERS], axis=0)


def _ngrams(words: Sequence[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(words[start:] for start in range(order)), strict=False))


def _shared(counters: Sequence[Counter[tuple[str, ...]]]) -> np.ndarray:
    """F1 (n, n) of what n counters count; 1 for two empty ones."""
    column = {ngram: number for number, ngram in enumerate(dict.fromkeys(ngram for each in counters for ngram in each))}
    counts = np.zeros((len(counters), len(column)))
    for row, each in zip(counts, counters, strict=True):
        row[[column[ngram] for ngram in each]] = list(each.values())
    both = np.minimum(counts[:, None], counts).sum(axis=2)
    sizes = counts.sum(axis=1)
    total = sizes[:, None] + sizes
    return np.divide(2 * both, total, out=np.ones_like(both), where=total > 0)
