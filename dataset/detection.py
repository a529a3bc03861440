"""Examples to detection sequences."""

from __future__ import annotations

import numpy as np

from dataset.coco import Example
from dataset.geometry import Geometry, visible_share
from tokenizers.detection import DetectionTokenizer
from tokenizers.vocabulary import TokenSequence

MIN_VISIBLE = 0.3  # share of a box that must stay on the canvas for its object to be taught


def detection_sequence(
    example: Example, geometry: Geometry, tokenizer: DetectionTokenizer, max_objects: int, rng: np.random.Generator
) -> TokenSequence:
    """The objects on the canvas in random order; a picture without objects is an immediate end."""
    boxes = geometry.box_fractions(example.boxes)
    shown = np.flatnonzero(visible_share(boxes) >= MIN_VISIBLE)
    order = rng.permutation(shown)[:max_objects]
    return tokenizer.encode(np.clip(boxes[order], 0, 1), example.classes[order])
