"""Several sampled lists of objects as one: boxes of the same object are merged, and each list has one vote on it.

A greedy list loses what the model's distribution holds: it ends early, repeats boxes and settles each class for good.
Many sampled lists find an object as often as the model believes in it, which is a score that can be ranked by.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.infer.results import Instances

MIN_IOU = 0.6  # of boxes that show the same object
MIN_SCORE = 0.02  # a box's class that is less probable is no vote
DIGITS = 9  # sums in another order differ behind them


def merge_votes(votes: Sequence[Instances], min_iou: float = MIN_IOU) -> Instances:
    """The objects of N `votes`, highest score first.

    Boxes may have any unit, and x or y first. An object is a cluster of boxes of one class that overlap the cluster's
    first box by at least `min_iou`. First boxes are those that most votes support, as in non-maximum suppression, which
    this is for a single vote. Of each vote the likeliest member counts: the box is the members' mean, weighted by their
    scores, the score the sum of theirs / N.
    """
    boxes, classes, scores, voter = _pooled(votes)
    of_classes = [np.flatnonzero(classes == class_id) for class_id in np.unique(classes)]
    parts = [_merge_class(boxes[some], scores[some], voter[some], min_iou) for some in of_classes]
    if not parts:
        return Instances.none()
    merged_boxes, sums = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    merged_classes = np.repeat(np.unique(classes), [len(part_sums) for _, part_sums in parts])
    order = np.argsort(-sums, kind="stable")
    return Instances(merged_boxes[order], merged_classes[order], sums[order] / len(votes))


def _pooled(votes: Sequence[Instances]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Boxes, classes, scores and number of the vote (n,) of all of them, in an order that the votes' has no part in."""
    boxes = np.concatenate([vote.boxes for vote in votes]).reshape(-1, 4)
    classes = np.concatenate([vote.classes for vote in votes])
    scores = np.concatenate([vote.scores for vote in votes]).astype(np.float64)
    voter = np.repeat(np.arange(len(votes)), [len(vote.scores) for vote in votes])
    order = np.lexsort((*boxes.T, classes, -scores))
    order = order[scores[order] >= MIN_SCORE]
    return boxes[order], classes[order], scores[order], voter[order]


def _merge_class(
    boxes: np.ndarray, scores: np.ndarray, voter: np.ndarray, min_iou: float
) -> tuple[np.ndarray, np.ndarray]:
    """The clusters of one class: their boxes (k, 4) and sums of scores (k,). `boxes` (n, 4), by falling `scores`."""
    linked = box_iou(boxes, boxes) >= min_iou
    np.fill_diagonal(linked, True)  # an empty box overlaps not even itself
    support = _by_voter(np.where(linked, scores, 0), voter).sum(axis=1)
    left, merged, sums = np.ones(len(boxes), dtype=bool), [], []
    for first in np.argsort(-support.round(DIGITS), kind="stable"):
        if left[first]:
            members = np.flatnonzero(left & linked[first])
            left[members] = False
            members = members[np.unique(voter[members], return_index=True)[1]]  # the likeliest of each vote
            merged.append(np.average(boxes[members], axis=0, weights=scores[members]))
            sums.append(scores[members].sum())
    return np.array(merged), np.array(sums)


def _by_voter(values: np.ndarray, voter: np.ndarray) -> np.ndarray:
    """The largest of `values` (n, m) ≥ 0 whose columns have the same `voter` (m,) → (n, voters)."""
    order = np.argsort(voter, kind="stable")
    starts = np.flatnonzero(np.diff(voter[order], prepend=-1))
    return np.maximum.reduceat(values[:, order], starts, axis=1)


def box_iou(boxes: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union (n, m) of boxes (n, 4) and (m, 4) y1 x1 y2 x2; 0 where both are empty."""
    low = np.maximum(boxes[:, None, :2], others[:, :2])
    high = np.minimum(boxes[:, None, 2:], others[:, 2:])
    shared = (high - low).clip(0).prod(axis=2)
    areas = [(part[:, 2:] - part[:, :2]).clip(0).prod(axis=1) for part in (boxes, others)]
    union = areas[0][:, None] + areas[1] - shared
    return np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
