"""Score segmentation: COCO's mask AP with true and with detected boxes as prompts, and mean IoU with true ones.

Masks of true boxes are ranked by the mean share of votes for their pixels, masks of detected boxes by the score of the
detection. Masks are run lengths from the first to the last: no figure needs them as pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from pix2seq.config import CFG, InferCFG
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.masks import encode_polygons, mask_iou
from pix2seq.dataset.segmentation import labeled, segmentation_sequence
from pix2seq.dataset.views import prompted_object
from pix2seq.evaluate.coco_metrics import score_prompted
from pix2seq.evaluate.predictions import ImagePredictions, Scores, results_of, true_instances
from pix2seq.infer.draw import Drawing
from pix2seq.infer.masks import Mask
from pix2seq.infer.results import Result
from pix2seq.infer.segmentation import coco_fields, draw
from pix2seq.tokenizers.segmentation import SegmentationTokenizer
from pix2seq.tokenizers.vocabulary import prompted_box

TASK = "segmentation"


def evidence(example: Example, predictions: ImagePredictions) -> np.ndarray:
    """IoU (n,) of the n predicted masks of true boxes with the objects' own."""
    masks = predictions.prompted[TASK].predictions[TASK]
    height, width = example.image.shape[:2]
    ious = [
        mask_iou(mask.rle, encode_polygons(example.polygons[index], height, width))
        for mask, index in zip(masks, np.flatnonzero(labeled(example)), strict=True)
    ]
    return np.array(ious)


def score(predictions: Sequence[ImagePredictions], split: ImageDataset, settings: InferCFG) -> Scores:
    """Mean IoU with true boxes, and COCO's figures with true boxes and with detected ones where there are any."""
    prompted = [(each.image_id, _ranked_by_votes(each.prompted[TASK])) for each in predictions]
    results = {"true boxes": _results(prompted, split)}
    if all(each.detected for each in predictions):
        results["detected boxes"] = _results([(each.image_id, each.detected) for each in predictions], split)
    scores = score_prompted(split, "segm", [each.image_id for each in predictions], results)
    ious = np.concatenate([each.evidence[TASK] for each in predictions])
    mean_iou = {"mean IoU, true boxes": float(ious.mean())} if len(ious) else {}
    return replace(scores, metrics=mean_iou | scores.metrics)


def _results(pairs: Sequence[tuple[int | str, Result]], split: ImageDataset) -> list[dict]:
    masks = ((image_id, r.instances, [coco_fields(mask) for mask in r.predictions[TASK]]) for image_id, r in pairs)
    return results_of(masks, split.category_ids)


def _ranked_by_votes(result: Result) -> Result:
    scores = np.array([mask.score for mask in result.predictions[TASK]])
    return replace(result, instances=replace(result.instances, scores=scores))


def draw_pair(
    example: Example, predictions: ImagePredictions, class_names: Mapping[int, str], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The objects' masks, and those predicted for their boxes."""
    known, prompted = np.flatnonzero(labeled(example)), predictions.prompted[TASK]
    height, width = example.image.shape[:2]
    masks = [Mask(encode_polygons(example.polygons[index], height, width), 1.0) for index in known]
    drawing = Drawing(class_names)
    return (
        draw(example.image, true_instances(example)[known], masks, drawing),
        draw(example.image, prompted.instances, prompted.predictions[TASK], drawing),
    )


def ground_truth(
    example: Example,
    geometry: Geometry,
    prompt: np.ndarray,
    tokenizer: SegmentationTokenizer,
    cfg: CFG,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The prompted object's mask; its box where the mask is not known, so that it is not scored."""
    index, (box, class_id) = prompted_object(example, geometry, prompt, labeled(example)), prompted_box(prompt)
    if example.polygons[index]:
        sequence = segmentation_sequence(example, index, box, geometry, tokenizer, rng)
    else:
        y1, x1, y2, x2 = box
        sequence = tokenizer.encode(box, class_id, [np.array([[y1, x1], [y1, x2], [y2, x2], [y2, x1]])])
    tokens = sequence.response(tokenizer.prompt_length)
    return tokens, np.ones(len(tokens))
