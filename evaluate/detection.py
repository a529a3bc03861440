"""Score detection: COCO's AP and recall, and Pascal VOC's AP. Every answer counts, however unsure."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.dataset.coco import ImageDataset
from pix2seq.evaluate.coco_metrics import CocoScore, of_kind, open_truth
from pix2seq.evaluate.predictions import Answers, Scores, results_of
from pix2seq.evaluate.voc_metrics import voc_precision
from pix2seq.infer.results import Result


def score_detection(answers: Sequence[Answers], split: ImageDataset, threshold: float) -> Scores:
    """COCO's twelve figures and mean VOC AP50 of the classes; results below `threshold` do not shape `quality`."""
    image_ids = [answer.image_id for answer in answers]
    boxes = [(answer.image_id, Result(answer.detected.instances)) for answer in answers]
    results = of_kind(results_of(boxes, split.category_ids), "bbox")
    truth = open_truth(split, "bbox")
    score = CocoScore(truth, results, "bbox", image_ids)
    per_class = score.per_class()
    for entry in truth["categories"]:
        if entry["name"] in per_class:
            per_class[entry["name"]] |= voc_precision(truth["annotations"], results, image_ids, entry["id"])
    voc = {
        name: float(np.mean([figures[name] for figures in per_class.values()]))
        for name in ("VOC AP50", "VOC AP50, 11 points")
        if per_class
    }
    return Scores(score.metrics() | voc, results, score.quality(threshold), per_class)
