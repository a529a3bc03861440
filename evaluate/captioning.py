"""Score captions against all reference captions: BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D.

The figures are those of COCO's caption evaluation (`caption_metrics.py`). Words are split as for training
(`tokenizers/words.py`), and as Stanford's tokenizer does, which COCO's server runs; punctuation marks are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pix2seq.config import CFG, InferCFG
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.geometry import Geometry
from pix2seq.evaluate.caption_metrics import caption_metrics
from pix2seq.evaluate.predictions import ImagePredictions, Scores
from pix2seq.evaluate.tiles import text_page
from pix2seq.tokenizers.captioning import CaptioningTokenizer
from pix2seq.tokenizers.words import split_words

TASK = "captioning"

# What COCO's caption evaluation takes out, and how Stanford's tokenizer spells brackets, which it does not.
PUNCTUATION = frozenset(["'", '"', ".", "?", "!", ",", ":", "-", "--", "...", ";"])
BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}


def scored_words(caption: str) -> str:
    """The words of a caption that count, with one space between them."""
    return " ".join(BRACKETS.get(word, word) for word in split_words(caption) if word not in PUNCTUATION)


def evidence(example: Example, predictions: ImagePredictions) -> Sequence[str]:
    """The reference captions."""
    return example.captions


def score(predictions: Sequence[ImagePredictions], split: ImageDataset, settings: InferCFG) -> Scores:
    """Figures of the images that have references; each image's `quality` is its CIDEr-D, a tenth of it."""
    referenced = [each for each in predictions if each.evidence[TASK]]
    results = [{"image_id": each.image_id, "caption": each.whole[TASK].best} for each in predictions]
    if not referenced:
        return Scores({}, results, {})
    references = {each.image_id: [scored_words(text) for text in each.evidence[TASK]] for each in referenced}
    captions = {each.image_id: scored_words(each.whole[TASK].best) for each in referenced}
    metrics, ciders = caption_metrics(references, captions)
    quality = {image_id: float(cider) / 10 for image_id, cider in zip(references, ciders, strict=True)}
    return Scores(metrics, results, quality)


def draw_pair(
    example: Example, predictions: ImagePredictions, class_names: Mapping[int, str], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The image, and a page with the predicted caption above the references."""
    return example.image, text_page(
        ["predicted:", predictions.whole[TASK].best, "ground truth:", *predictions.evidence[TASK]]
    )


def ground_truth(
    example: Example,
    geometry: Geometry,
    prompt: np.ndarray,
    tokenizer: CaptioningTokenizer,
    cfg: CFG,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The first reference caption."""
    tokens = tokenizer.encode(example.captions[0]).response(tokenizer.prompt_length)
    return tokens, np.ones(len(tokens))
