"""Examples to caption sequences."""

from __future__ import annotations

import re

import numpy as np

from pix2seq.dataset.coco import Example
from pix2seq.tokenizers.captioning import CaptioningTokenizer
from pix2seq.tokenizers.vocabulary import TokenSequence

OPPOSITE = {"left": "right", "right": "left"}


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
