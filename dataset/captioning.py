"""Examples to caption sequences."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from pix2seq.config import CFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.views import View
from pix2seq.tokenizers.captioning import CaptioningTokenizer, drop_words
from pix2seq.tokenizers.vocabulary import TokenSequence

COCO_FILE = "captions"
LIMIT = ("max_words", "are cut at")
OPPOSITE = {"left": "right", "right": "left"}


def trains_on(objects: Sequence[dict], captions: Sequence[str], is_background: bool) -> bool:
    """Images with a caption."""
    return bool(captions)


def sequences(view: View, tokenizer: CaptioningTokenizer, cfg: CFG, rng: np.random.Generator) -> list[TokenSequence]:
    """`captions_per_image` random captions of the image."""
    found = caption_sequences(view.example, view.flipped, tokenizer, cfg.data.captions_per_image, rng)
    if view.augment and cfg.data.drop_words:
        return [drop_words(sequence, cfg.data.drop_words, rng) for sequence in found]
    return found


def lengths(example: Example, tokenizer: CaptioningTokenizer) -> list[tuple[int, bool]]:
    """For each caption its words, or word pieces, and the end."""
    counts = [len(tokenizer.text.encode(caption)) for caption in example.captions]
    return [(count + 1, count > tokenizer.max_words) for count in counts]


def caption_sequences(
    example: Example, flipped: bool, tokenizer: CaptioningTokenizer, count: int, rng: np.random.Generator
) -> list[TokenSequence]:
    """`count` random captions of the image; in a mirrored one left is right."""
    chosen = rng.permutation(len(example.captions))[:count]
    captions = [example.captions[index] for index in chosen]
    return [tokenizer.encode(mirror_caption(caption) if flipped else caption) for caption in captions]


def mirror_caption(caption: str) -> str:
    """The caption with the words left and right exchanged."""
    return re.sub(r"\b(left|right)\b", lambda match: OPPOSITE[match[0].lower()], caption, flags=re.IGNORECASE)
