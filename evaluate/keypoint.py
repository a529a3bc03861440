"""Score keypoints: COCO's OKS AP with true and with detected boxes as prompts.

A pose's score is the mean probability of its tokens, mixed with the score of its box: w · pose + (1 − w) · box, where w
is `points_score_weight`, as in the official code; a true box's score is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pix2seq.config import CFG, InferCFG
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.keypoint import keypoint_sequence, labeled
from pix2seq.dataset.views import View, prompted_object
from pix2seq.evaluate.coco_metrics import score_prompted
from pix2seq.evaluate.predictions import ImagePredictions, Scores, results_of, true_instances
from pix2seq.infer.draw import Drawing
from pix2seq.infer.keypoint import coco_fields, draw
from pix2seq.infer.results import Instances, Pose, Result
from pix2seq.tokenizers.keypoint import KeypointTokenizer
from pix2seq.tokenizers.vocabulary import prompted_box

TASK = "keypoint"


def evidence(example: Example, predictions: ImagePredictions) -> None:
    """Nothing: scoring reads the split's annotations."""


def score(predictions: Sequence[ImagePredictions], split: ImageDataset, settings: InferCFG) -> Scores:
    """COCO's figures with true boxes, and with detected ones where there are any."""
    weight = settings.points_score_weight
    results = {"true boxes": _results([(each.image_id, each.prompted[TASK]) for each in predictions], split, weight)}
    if all(each.detected for each in predictions):
        detected = [(each.image_id, each.detected) for each in predictions]
        results["detected boxes"] = _results(detected, split, weight)
    return score_prompted(split, "keypoints", [each.image_id for each in predictions], results)


def _results(pairs: Sequence[tuple[int | str, Result]], split: ImageDataset, weight: float) -> list[dict]:
    return results_of(((image_id, *_ranked_poses(result, weight)) for image_id, result in pairs), split.category_ids)


def _ranked_poses(result: Result, weight: float) -> tuple[Instances, list[dict]]:
    """The instances that have a pose, with its score, and the poses in COCO's format."""
    posed = np.flatnonzero([pose is not None for pose in result.predictions[TASK]])
    poses, instances = [result.predictions[TASK][index] for index in posed], result.instances[posed]
    scores = weight * np.array([pose.score for pose in poses]) + (1 - weight) * instances.scores
    return Instances(instances.boxes, instances.classes, scores), [coco_fields(pose) for pose in poses]


def draw_pair(
    example: Example, predictions: ImagePredictions, class_names: Mapping[int, str], threshold: float
) -> tuple[np.ndarray, np.ndarray]:
    """The poses, and those predicted for the same boxes."""
    posed, prompted = np.flatnonzero(labeled(example)), predictions.prompted[TASK]
    poses = [Pose(example.keypoints[index], 1.0) for index in posed]
    drawing = Drawing(class_names, example.skeleton)
    return (
        draw(example.image, true_instances(example)[posed], poses, drawing),
        draw(example.image, prompted.instances, prompted.predictions[TASK], drawing),
    )


def ground_truth(
    example: Example,
    geometry: Geometry,
    prompt: np.ndarray,
    tokenizer: KeypointTokenizer,
    cfg: CFG,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """The prompted object's keypoints."""
    index = prompted_object(example, geometry, prompt, labeled(example))
    sequence = keypoint_sequence(View(example, geometry, instance=index), prompted_box(prompt)[0], tokenizer)
    tokens = sequence.response(tokenizer.prompt_length)
    return tokens, np.ones(len(tokens))
