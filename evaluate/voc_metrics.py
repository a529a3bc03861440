"""Pascal VOC's average precision of boxes.

As in the development kit: M. Everingham et al., The Pascal Visual Object Classes Challenge, IJCV 2010 and 2015. Its
whole pixel coordinates include both ends; with x1 − 1 and y1 − 1 they become the continuous ones that are used here.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from pycocotools import mask as coco_mask

MIN_IOU = 0.5


@dataclass(frozen=True)
class ImageBoxes:
    """An image's n boxes (n, 4) x1 y1 x2 y2 of one class: ground truth with `difficult` (n,) bool, or predictions with
    `scores` (n,)."""

    boxes: np.ndarray
    difficult: np.ndarray | None = None
    scores: np.ndarray | None = None


def average_precision(
    ground_truth: Sequence[ImageBoxes], predictions: Sequence[ImageBoxes], eleven_points: bool
) -> float | None:
    """AP of one class at IoU 0.5 over images; None if no object counts.

    A prediction is assigned to the object that it overlaps most. It is correct if the IoU is at least 0.5 and no
    prediction of a higher score was correct for the same object. Predictions of difficult objects are ignored, and so
    are these objects in the recall. VOC uses the area under the interpolated curve since 2010, and before that the mean
    over recalls 0, 0.1 … 1 (`eleven_points`).
    """
    count = sum(int((~image.difficult).sum()) for image in ground_truth)
    if count == 0:
        return None
    outcomes = [_outcomes(*pair) for pair in zip(ground_truth, predictions, strict=True)]
    scores = np.concatenate([image.scores for image in predictions])
    order = np.argsort(-scores, kind="stable")
    right = np.concatenate(outcomes)[order]
    right = right[~np.isnan(right)]
    hits = right.cumsum()
    recall, precision = hits / count, hits / np.arange(1, len(right) + 1)
    if eleven_points:
        return float(np.mean([precision[recall >= level - 1e-9].max(initial=0) for level in np.linspace(0, 1, 11)]))
    highest = np.maximum.accumulate(precision[::-1])[::-1]  # the best precision at this recall or a higher one
    return float((np.diff(recall, prepend=0) * highest).sum())


def _outcomes(objects: ImageBoxes, predictions: ImageBoxes) -> np.ndarray:
    """For each prediction (n,) of an image: 1 if it is correct, 0 if it is wrong, NaN if it is ignored."""
    outcomes = np.zeros(len(predictions.boxes))
    if len(objects.boxes) == 0 or len(predictions.boxes) == 0:
        return outcomes
    boxes = _xywh(predictions.boxes), _xywh(objects.boxes)
    ious = coco_mask.iou(*boxes, [0] * len(objects.boxes))  # (predictions, objects)
    taken = np.zeros(len(objects.boxes), dtype=bool)
    for index in np.argsort(-predictions.scores, kind="stable"):
        best = ious[index].argmax()
        if ious[index, best] < MIN_IOU:
            continue
        if objects.difficult[best]:
            outcomes[index] = np.nan
        else:
            outcomes[index] = not taken[best]
            taken[best] = True
    return outcomes


def _xywh(boxes: np.ndarray) -> np.ndarray:
    return np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).astype(np.float64)


def voc_precision(
    annotations: Sequence[Mapping], results: Sequence[Mapping], image_ids: Sequence[int], category: int
) -> dict[str, float]:
    """Both kinds of AP of one category; empty if no object counts.

    `annotations` (difficult objects and crowds have `iscrowd`) and `results` are in COCO's format.
    """
    ground_truth, predictions = _of_category(annotations, results, image_ids, category)
    area = average_precision(ground_truth, predictions, eleven_points=False)
    if area is None:
        return {}
    return {"VOC AP50": area, "VOC AP50, 11 points": average_precision(ground_truth, predictions, eleven_points=True)}


def matches(
    annotations: Sequence[Mapping], results: Sequence[Mapping], image_ids: Sequence[int], categories: Iterable[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (n,) of the results that count, and whether they are right (n,) bool; see `average_precision`."""
    scores, outcomes = [np.zeros(0)], [np.zeros(0)]
    for category in categories:
        for pair in zip(*_of_category(annotations, results, image_ids, category), strict=True):
            scores.append(pair[1].scores)
            outcomes.append(_outcomes(*pair))
    outcome = np.concatenate(outcomes)
    counts = ~np.isnan(outcome)
    return np.concatenate(scores)[counts], outcome[counts] > 0


def _of_category(
    annotations: Sequence[Mapping], results: Sequence[Mapping], image_ids: Sequence[int], category: int
) -> tuple[list[ImageBoxes], list[ImageBoxes]]:
    """Ground truth and predictions of one category on each image."""
    ground_truth, predictions = [], []
    true_entries, result_entries = _by_image(annotations, category), _by_image(results, category)
    for image_id in image_ids:
        true, predicted = true_entries.get(image_id, []), result_entries.get(image_id, [])
        ground_truth.append(
            ImageBoxes(_corners(true), difficult=np.array([bool(a["iscrowd"]) for a in true], dtype=bool))
        )
        predictions.append(
            ImageBoxes(_corners(predicted), scores=np.array([r["score"] for r in predicted], dtype=np.float64))
        )
    return ground_truth, predictions


def _by_image(entries: Sequence[Mapping], category: int) -> dict[int, list[Mapping]]:
    grouped: dict[int, list[Mapping]] = {}
    for entry in entries:
        if entry["category_id"] == category:
            grouped.setdefault(entry["image_id"], []).append(entry)
    return grouped


def _corners(entries: Sequence[Mapping]) -> np.ndarray:
    boxes = np.array([entry["bbox"] for entry in entries], dtype=np.float64).reshape(-1, 4)
    boxes[:, 2:] += boxes[:, :2]
    return boxes
