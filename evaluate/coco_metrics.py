"""COCO's average precision, by pycocotools and without its prints."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Literal

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

METRICS = {"AP": 0, "AP50": 1, "AP75": 2}  # where COCOeval.stats has them


def open_truth(path: Path) -> COCO:
    """The annotations of a file."""
    with contextlib.redirect_stdout(io.StringIO()):
        return COCO(str(path))


def average_precision(
    truth: COCO, results: list[dict], kind: Literal["bbox", "segm", "keypoints"], image_ids: list[int]
) -> dict[str, float]:
    """AP over IoU (or OKS) 0.50 … 0.95, AP50 and AP75 of COCO results on pictures `image_ids`, each 0 to 1."""
    if not results:  # which pycocotools cannot load
        return dict.fromkeys(METRICS, 0.0)
    with contextlib.redirect_stdout(io.StringIO()):
        evaluation = COCOeval(truth, truth.loadRes(results), kind)
        evaluation.params.imgIds = image_ids
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return {name: float(evaluation.stats[index]) for name, index in METRICS.items()}


def prompted_precision(
    truth: COCO,
    kind: Literal["segm", "keypoints"],
    image_ids: list[int],
    of_true_boxes: list[dict],
    of_detected_boxes: list[dict] | None,
) -> dict[str, float]:
    """`average_precision` for answers about true boxes and, unless None, about detected boxes."""
    named = {}
    for title, results in (("true boxes", of_true_boxes), ("detected boxes", of_detected_boxes)):
        if results is not None:
            values = average_precision(truth, results, kind, image_ids)
            named |= {f"{name}, {title}": value for name, value in values.items()}
    return named
