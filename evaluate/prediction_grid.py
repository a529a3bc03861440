"""A grid of images: ground truth beside predictions, for the best, median and worst predictions of a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pix2seq.dataset.coco import ImageDataset
from pix2seq.evaluate.evaluation import Evaluation
from pix2seq.evaluate.tiles import tile
from pix2seq.task import Task

PER_KIND = 2


def draw_predictions(
    task: Task, evaluation: Evaluation, split: ImageDataset, class_names: Mapping[int, str], threshold: float
) -> np.ndarray | None:
    """Two pairs of tiles for each kind, (H, W, 3) uint8; None if no image has anything to show."""
    quality = evaluation.scores[task.name].quality
    ranked = [each for each in evaluation.predictions if each.image_id in quality]
    if not ranked:
        return None
    ranked.sort(key=lambda each: quality[each.image_id])
    middle = max((len(ranked) - PER_KIND) // 2, 0)
    kinds = {"best": ranked[: -PER_KIND - 1 : -1], "median": ranked[middle : middle + PER_KIND]}
    rows = []
    for title, chosen in (kinds | {"worst": ranked[:PER_KIND]}).items():
        pairs = []
        for each in chosen:
            label = f"{title}  {quality[each.image_id]:.2f}  image {each.image_id}"
            pairs.append((label, task.evaluation.draw_pair(split[each.index], each, class_names, threshold)))
        rows.append(draw_row(pairs, PER_KIND))
    return np.concatenate(rows)


def draw_row(pairs: Sequence[tuple[str, tuple[np.ndarray, np.ndarray]]], places: int) -> np.ndarray:
    """A row (h, w, 3) with room for `places` pairs of images, of the ground truth and of a prediction, with labels."""
    tiles = []
    for label, (truth, predicted) in pairs:
        tiles += [tile(truth, f"{label}  ground truth"), tile(predicted, "predicted")]
    tiles += [np.full_like(tiles[0], 255)] * (2 * places - len(tiles))
    return np.concatenate(tiles, axis=1)
