"""Examples to keypoint sequences."""

from __future__ import annotations

import numpy as np

from dataset.coco import KEYPOINT_FLIP, Example
from dataset.geometry import Geometry
from tokenizers.keypoint import KeypointTokenizer
from tokenizers.vocabulary import TokenSequence


def has_keypoints(example: Example) -> np.ndarray:
    """Which objects (n,) have a labelled keypoint."""
    return (example.keypoints[:, :, 2] > 0).any(axis=1)


def keypoint_sequence(
    example: Example, index: int, box: np.ndarray, geometry: Geometry, flipped: bool, tokenizer: KeypointTokenizer
) -> TokenSequence:
    """Object `index`'s keypoints, prompted by `box` (4,) y1 x1 y2 x2 in canvas fractions.

    Left and right joints swap names if the canvas is mirrored (`flipped`); points off the canvas are invisible.
    """
    keypoints = example.keypoints[index]
    if flipped:
        keypoints = keypoints[list(KEYPOINT_FLIP)]
    points = geometry.to_fractions(keypoints[:, :2])
    visible = (keypoints[:, 2] > 0) & ((points >= 0) & (points <= 1)).all(axis=1)
    return tokenizer.encode(box, example.classes[index], points, visible)
