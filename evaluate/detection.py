"""Score detection: COCO's AP and recall, and Pascal VOC's AP. Every prediction counts, however low its score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pix2seq.config import CFG, InferCFG
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.detection import detection_sequence
from pix2seq.dataset.geometry import Geometry
from pix2seq.evaluate.coco_metrics import CocoScore, open_ground_truth
from pix2seq.evaluate.predictions import ImagePredictions, Scores, results_of, true_instances
from pix2seq.evaluate.reliability import Reliability
from pix2seq.evaluate.voc_metrics import matches, voc_precision
from pix2seq.infer.draw import Drawing, draw_boxes
from pix2seq.infer.results import xywh
from pix2seq.tokenizers.detection import DetectionTokenizer
from pix2seq.tokenizers.vocabulary import dequantize


def evidence(example: Example, predictions: ImagePredictions) -> None:
    """Nothing: scoring reads the split's annotations."""


def score(predictions: Sequence[ImagePredictions], split: ImageDataset, settings: InferCFG) -> Scores:
    """COCO's twelve figures and mean VOC AP50 of the classes; results below `score_threshold` do not shape
    `quality`."""
    image_ids = [each.image_id for each in predictions]
    results = box_results(predictions, split)
    ground_truth = open_ground_truth(split, "bbox")
    coco = CocoScore(ground_truth, results, "bbox", image_ids)
    per_class = coco.per_class()
    for entry in ground_truth["categories"]:
        if entry["name"] in per_class:
            per_class[entry["name"]] |= voc_precision(ground_truth["annotations"], results, image_ids, entry["id"])
    voc = {
        name: float(np.mean([figures[name] for figures in per_class.values()]))
        for name in ("VOC AP50", "VOC AP50, 11 points")
        if per_class
    }
    right = matches(ground_truth["annotations"], results, image_ids, split.category_ids.values())
    figures = coco.metrics() | voc, results, coco.quality(settings.score_threshold), per_class
    return Scores(*figures, Reliability.of(*right))


def box_results(predictions: Sequence[ImagePredictions], split: ImageDataset) -> list[dict]:
    """The boxes that were found, in COCO's results format."""
    found = [(each.image_id, each.found) for each in predictions]
    boxes = ((image_id, instances, [{"bbox": xywh(box)} for box in instances.boxes]) for image_id, instances in found)
    return results_of(boxes, split.category_ids)


def scores_and_outcomes(predictions: Sequence[ImagePredictions], split: ImageDataset) -> tuple[np.ndarray, np.ndarray]:
    """The score of each box (n,), and whether it is right (n,) bool: the best of those that overlap an object of its
    class by an IoU of 0.5."""
    annotations = open_ground_truth(split, "bbox")["annotations"]
    image_ids = [each.image_id for each in predictions]
    return matches(annotations, box_results(predictions, split), image_ids, split.category_ids.values())


def draw_pair(
    example: Example, predictions: ImagePredictions, class_names: Mapping[int, str], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The objects, and the instances found with at least the score `threshold`."""
    found, drawing = predictions.found, Drawing(class_names)
    sure = found[found.scores >= threshold]
    return tuple(draw_boxes(example.image, instances, drawing) for instances in (true_instances(example), sure))


def ground_truth(
    example: Example,
    geometry: Geometry,
    prompt: np.ndarray,
    tokenizer: DetectionTokenizer,
    cfg: CFG,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """All objects; the larger one is surer, as its bins are finer to it."""
    tokens = detection_sequence(example, geometry, tokenizer, cfg, rng).response(tokenizer.prompt_length)
    probs = np.ones(len(tokens))
    groups = tokens[: len(tokens) // 5 * 5].reshape(-1, 5)
    y1, x1, y2, x2 = dequantize(groups[:, :4]).T
    probs[: groups.size] = np.repeat(((y2 - y1) * (x2 - x1)) ** 0.25, 5)
    return tokens, probs
