"""Score keypoints: COCO's OKS AP with true and with detected boxes as prompts.

A pose's score is the mean probability of its tokens, mixed with the score of its box: w · pose + (1 − w) · box, where w
is `points_score_weight`, as in the official code; a true box's score is 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.dataset.coco import ImageDataset
from pix2seq.evaluate.coco_metrics import score_prompted
from pix2seq.evaluate.predictions import Answers, Scores
from pix2seq.infer.results import Instances, Result


def score_keypoint(answers: Sequence[Answers], split: ImageDataset, points_score_weight: float) -> Scores:
    """COCO's figures with true boxes, and with detected ones where there are any."""

    def ranked(result: Result) -> Result:
        return _ranked_poses(result, points_score_weight)

    said = {"true boxes": [(answer.image_id, ranked(answer.posed)) for answer in answers]}
    if all(answer.detected for answer in answers):
        said["detected boxes"] = [(answer.image_id, ranked(answer.detected)) for answer in answers]
    return score_prompted(split, "keypoints", [answer.image_id for answer in answers], said)


def _ranked_poses(result: Result, weight: float) -> Result:
    """The instances that have a pose, with that and its score alone."""
    posed = np.flatnonzero([pose is not None for pose in result.poses])
    poses, instances = [result.poses[index] for index in posed], result.instances[posed]
    scores = weight * np.array([pose.score for pose in poses]) + (1 - weight) * instances.scores
    return Result(Instances(instances.boxes, instances.classes, scores), poses=poses)
