"""Score segmentation: COCO's mask AP with true and with detected boxes as prompts, and mean IoU with true ones.

Masks of true boxes are ranked by the mean share of votes for their pixels, masks of detected boxes by the score of the
detection. Masks are run lengths from the first to the last: no figure needs them as pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from pycocotools import mask as coco_mask

from pix2seq.dataset.coco import ImageDataset
from pix2seq.evaluate.coco_metrics import score_prompted
from pix2seq.evaluate.predictions import Answers, Scores
from pix2seq.infer.results import Result


def mask_ious(result: Result, polygons: Sequence[Sequence[np.ndarray]], height: int, width: int) -> np.ndarray:
    """IoU (n,) of each of n masks with the true polygons [(K, 2)] of its object, in an image of that size."""
    ious = np.zeros(len(polygons))
    for index, (mask, parts) in enumerate(zip(result.masks, polygons, strict=True)):
        true = coco_mask.merge(coco_mask.frPyObjects([part.ravel().tolist() for part in parts], height, width))
        ious[index] = coco_mask.iou([mask.rle], [true], [0])[0, 0]
    return ious


def score_segmentation(answers: Sequence[Answers], split: ImageDataset) -> Scores:
    """Mean IoU with true boxes, and COCO's figures with true boxes and with detected ones where there are any."""
    said = {"true boxes": [(answer.image_id, _ranked_by_votes(answer.segmented)) for answer in answers]}
    if all(answer.detected for answer in answers):
        said["detected boxes"] = [(answer.image_id, replace(answer.detected, poses=None)) for answer in answers]
    scores = score_prompted(split, "segm", [answer.image_id for answer in answers], said)
    ious = np.concatenate([answer.mask_ious for answer in answers])
    mean_iou = {"mean IoU, true boxes": float(ious.mean())} if len(ious) else {}
    return replace(scores, metrics=mean_iou | scores.metrics)


def _ranked_by_votes(result: Result) -> Result:
    scores = np.array([mask.score for mask in result.masks])
    return replace(result, instances=replace(result.instances, scores=scores))
