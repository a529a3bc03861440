"""Examples to keypoint sequences."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.config import CFG
from pix2seq.dataset.coco import Example
from pix2seq.dataset.views import View, keypoints_on_canvas
from pix2seq.tokenizers.keypoint import KeypointTokenizer, mask_points
from pix2seq.tokenizers.vocabulary import TokenSequence

COCO_FILE = "person_keypoints"
LIMIT = ("max_tokens", "exceed")


def trains_on(objects: Sequence[dict], captions: Sequence[str], is_background: bool) -> bool:
    """Images with an object that has a labeled keypoint."""
    return any(entry.get("keypoints") for entry in objects)


def labeled(example: Example) -> np.ndarray:
    """Which objects (n,) have a labeled keypoint."""
    return (example.keypoints[:, :, 2] > 0).any(axis=1)


def sequences(view: View, tokenizer: KeypointTokenizer, cfg: CFG, rng: np.random.Generator) -> list[TokenSequence]:
    """One sequence about the instance."""
    sequence = keypoint_sequence(view, view.prompt_box(cfg.data, rng), tokenizer)
    if view.augment and cfg.data.mask_points:
        sequence = mask_points(sequence, rng.random(), rng)
    return [sequence]


def keypoint_sequence(view: View, box: np.ndarray, tokenizer: KeypointTokenizer) -> TokenSequence:
    """The instance's keypoints, prompted by `box` (4,) y1 x1 y2 x2 in canvas fractions."""
    example, index = view.example, view.instance
    points, visible = keypoints_on_canvas(example.keypoints[index], view.geometry, view.flipped, example.skeleton)
    unlabeled = np.isin(np.arange(len(points)), example.unlabeled.points)
    if view.flipped:
        unlabeled = unlabeled[list(example.skeleton.flip)]
    return tokenizer.encode(box, example.classes[index], points, visible, unlabeled)


def lengths(example: Example, tokenizer: KeypointTokenizer) -> list[tuple[int, bool]]:
    """For each instance the tokens of all points."""
    return [(tokenizer.max_response, False)] * int(labeled(example).sum())
