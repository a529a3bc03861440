"""BLEU, ROUGE-L and CIDEr-D of captions, as COCO's caption evaluation computes them.

The figures are those of COCO's server and of pycocoevalcap, which is 101 MB, most of it Java for other metrics, and
whose code for BLEU may not be used commercially. Texts are words with one space between them (see `scored_words`).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

ORDERS = (1, 2, 3, 4)
TINY, SMALL = 1e-15, 1e-9  # what COCO adds to the numerators and denominators of BLEU
BETA = 1.2  # how much more recall counts than precision in ROUGE-L
SIGMA = 6.0  # deviation of lengths in CIDEr-D

NGrams = Counter[tuple[str, ...]]


def caption_metrics(
    references: Mapping[int | str, Sequence[str]], captions: Mapping[int | str, str]
) -> tuple[dict[str, float], np.ndarray]:
    """Figures of a caption for each image, and each image's CIDEr-D, in the order of `references`.

    BLEU and ROUGE-L are 0 to 1; CIDEr-D is 0 to 10, and 0 for a single image, as it weighs words by how few images
    have them.
    """
    pairs = [(captions[image_id], texts) for image_id, texts in references.items()]
    counted = [(_ngrams(caption), [_ngrams(text) for text in texts]) for caption, texts in pairs]
    named = {f"BLEU-{order}": float(value) for order, value in zip(ORDERS, bleu(counted), strict=True)}
    ciders = cider_d(counted)
    rouge = np.mean([rouge_l(caption, texts) for caption, texts in pairs])
    return named | {"ROUGE-L": float(rouge), "CIDEr-D": float(np.mean(ciders))}, ciders


def bleu(counted: Sequence[tuple[NGrams, Sequence[NGrams]]]) -> np.ndarray:
    """BLEU-1 to BLEU-4 (4,) of the n-grams of captions and of their references (Papineni et al., 2002).

    All images are counted together; the reference whose length is closest, the shorter of two, decides whether a
    caption is too short.
    """
    right, guessed = np.zeros(len(ORDERS)), np.zeros(len(ORDERS))
    caption_length = reference_length = 0
    for caption, references in counted:
        length = _length(caption)
        caption_length += length
        reference_length += min(map(_length, references), key=lambda other: (abs(other - length), other))
        guessed += [max(length - order + 1, 0) for order in ORDERS]
        for ngram, count in caption.items():
            right[len(ngram) - 1] += min(count, max(reference[ngram] for reference in references))
    precisions = (right + TINY) / (guessed + SMALL)
    ratio = (caption_length + TINY) / (reference_length + SMALL)
    return np.cumprod(precisions) ** (1 / np.array(ORDERS)) * math.exp(min(1 - 1 / ratio, 0))


def rouge_l(caption: str, references: Sequence[str]) -> float:
    """F-measure of the longest common subsequence of words, of the best precision and the best recall (Lin, 2004)."""
    words, others = caption.split(" "), [reference.split(" ") for reference in references]
    common = [_longest_common(words, other) for other in others]
    precision = max(common) / len(words)
    recall = max(length / len(other) for length, other in zip(common, others, strict=True))
    if not precision:
        return 0.0
    return (1 + BETA**2) * precision * recall / (recall + BETA**2 * precision)


def cider_d(counted: Sequence[tuple[NGrams, Sequence[NGrams]]]) -> np.ndarray:
    """CIDEr-D (n,) of n images from the n-grams of captions and of their references (Vedantam et al., 2015).

    An n-gram weighs the more, the fewer images have it in their references.
    """
    images = Counter(ngram for _, references in counted for ngram in set().union(*references))
    weights = {ngram: math.log(len(counted) / count) for ngram, count in images.items()}
    unknown = math.log(len(counted))
    scores = []
    for caption, references in counted:
        caption_vector = _vector(caption, weights, unknown)
        similar = [_similarity(caption_vector, _vector(reference, weights, unknown)) for reference in references]
        scores.append(10 * np.mean(similar))
    return np.array(scores)


def _ngrams(text: str) -> NGrams:
    words = text.split()
    return Counter(tuple(words[i : i + order]) for order in ORDERS for i in range(len(words) - order + 1))


def _length(ngrams: NGrams, order: int = 1) -> int:
    """The number of n-grams of an order: words, if it is 1."""
    return sum(count for ngram, count in ngrams.items() if len(ngram) == order)


def _vector(ngrams: NGrams, weights: Mapping[tuple[str, ...], float], unknown: float) -> tuple[dict, np.ndarray, int]:
    """Weighted counts, their norm (4,) for each order, and the length, for which COCO takes the number of pairs."""
    vector = {ngram: count * weights.get(ngram, unknown) for ngram, count in ngrams.items()}
    squares = np.zeros(len(ORDERS))
    for ngram, value in vector.items():
        squares[len(ngram) - 1] += value**2
    return vector, np.sqrt(squares), _length(ngrams, order=2)


def _similarity(caption: tuple[dict, np.ndarray, int], reference: tuple[dict, np.ndarray, int]) -> float:
    """The mean over the orders of the cosines, with counts clipped to the reference's, less for another length."""
    (vector, norm, length), (other, other_norm, other_length) = caption, reference
    products = np.zeros(len(ORDERS))
    for ngram in vector.keys() & other.keys():
        products[len(ngram) - 1] += min(vector[ngram], other[ngram]) * other[ngram]
    norms = norm * other_norm
    cosines = np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
    return float(np.mean(cosines)) * math.exp(-((length - other_length) ** 2) / (2 * SIGMA**2))


def _longest_common(words: Sequence[str], others: Sequence[str]) -> int:
    """The length of the longest common subsequence."""
    lengths = [0] * (len(others) + 1)  # of `words` so far with the first 0, 1, … of `others`
    for word in words:
        before = 0
        for place, other in enumerate(others, 1):
            longer = before + 1 if word == other else max(lengths[place], lengths[place - 1])
            before, lengths[place] = lengths[place], longer
    return lengths[-1]
