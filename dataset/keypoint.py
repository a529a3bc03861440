"""Examples to keypoint sequences."""

from __future__ import annotations

import numpy as np

from pix2seq.dataset.coco import Example
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.skeleton import Skeleton
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.vocabulary import TokenSequence


def has_keypoints(example: Example) -> np.ndarray:
    """Which objects (n,) have a labelled keypoint."""
    return (example.keypoints[:, :, 2] > 0).any(axis=1)


def keypoints_on_canvas(
    keypoints: np.ndarray, geometry: Geometry, flipped: bool, skeleton: Skeleton
) -> tuple[np.ndarray, np.ndarray]:
    """Keypoints (P, 3) x y v of an image as points (P, 2) y x in canvas fractions, and which are to be seen (P,).

    Left and right points of the `skeleton` swap names if the canvas is mirrored (`flipped`); points off the canvas are
    invisible.
    """
    if flipped:
        keypoints = keypoints[list(skeleton.flip)]
    places = keypoints[:, :2]
    return geometry.to_fractions(places), (keypoints[:, 2] > 0) & geometry.shows(places)


def keypoint_sequence(
    example: Example, index: int, box: np.ndarray, geometry: Geometry, flipped: bool, tokenizer: KeypointTokenizer
) -> TokenSequence:
    """Object `index`'s keypoints, prompted by `box` (4,) y1 x1 y2 x2 in canvas fractions."""
    points, visible = keypoints_on_canvas(example.keypoints[index], geometry, flipped, example.skeleton)
    return tokenizer.encode(box, example.classes[index], points, visible)
