"""Score captions against all reference captions: BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D.

The scorers are those of COCO's caption evaluation (pycocoevalcap), without its Java parts. Words are split by nltk's
Penn Treebank rules, lower-cased, without punctuation marks: what Stanford's tokenizer does, which COCO's server runs,
but for rare cases such as a full stop inside a caption after an abbreviation.
"""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence

import numpy as np

from pix2seq.evaluate.predictions import Answers, Scores

# What COCO's caption evaluation takes out, in the spellings of the Penn Treebank.
PUNCTUATION = frozenset(["''", "'", "``", "`", '"', "(", ")", "{", "}", ".", "?", "!", ",", ":", "-", "--", "...", ";"])
ORDERS = (1, 2, 3, 4)


def split_words(caption: str) -> str:
    """The lower-case words of a caption with one space between them."""
    from nltk.tokenize.treebank import TreebankWordTokenizer  # slow to import

    sentences = re.sub(r"\.(?=\s)", " .", caption.lower())  # the rules see a full stop only at the very end
    return " ".join(word for word in TreebankWordTokenizer().tokenize(sentences) if word not in PUNCTUATION)


def score_captioning(answers: Sequence[Answers]) -> Scores:
    """Figures of the images that have references; each image's `quality` is its CIDEr-D, a tenth of it."""
    referenced = [answer for answer in answers if answer.references]
    results = [{"image_id": answer.image_id, "caption": answer.caption} for answer in answers]
    if not referenced:
        return Scores({}, results, {})
    references = {answer.image_id: [split_words(text) for text in answer.references] for answer in referenced}
    captions = {answer.image_id: [split_words(answer.caption)] for answer in referenced}
    metrics, ciders = caption_metrics(references, captions)
    quality = {image_id: float(cider) / 10 for image_id, cider in zip(references, ciders, strict=True)}
    return Scores(metrics, results, quality)


def caption_metrics(
    references: dict[int, list[str]], captions: dict[int, list[str]]
) -> tuple[dict[str, float], np.ndarray]:
    """Figures of split captions, a list of one for each image, and each image's CIDEr-D.

    BLEU and ROUGE-L are 0 to 1; CIDEr-D is 0 to 10, and 0 for a single image, as it weighs words by how few images
    have them.
    """
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    with contextlib.redirect_stdout(io.StringIO()):  # it prints lengths
        bleus, _ = Bleu(len(ORDERS)).compute_score(references, captions)
    rouge, _ = Rouge().compute_score(references, captions)
    cider, ciders = Cider().compute_score(references, captions)
    named = {f"BLEU-{order}": float(value) for order, value in zip(ORDERS, bleus, strict=True)}
    return named | {"ROUGE-L": float(rouge), "CIDEr-D": float(cider)}, ciders
