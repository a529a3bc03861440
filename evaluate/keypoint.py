"""Score keypoints: COCO's OKS AP with true and with detected boxes as prompts.

Poses are ranked by the mean probability of their tokens, times the detection's score where the box was detected.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pycocotools.coco import COCO

from dataset.coco import Example
from evaluate.coco_metrics import prompted_precision
from infer.results import Instances, Result, coco_results


@dataclass
class KeypointScore:
    """Collects the poses of prompted people; `detects` says whether the model finds boxes itself."""

    detects: bool
    of_true_boxes: list[dict] = field(default_factory=list)
    of_detected_boxes: list[dict] = field(default_factory=list)

    def add_true_boxes(self, example: Example, result: Result) -> None:
        """Poses of the people annotated in a picture."""
        self.of_true_boxes += _ranked_poses(example, result)

    def add_detected_boxes(self, example: Example, result: Result) -> None:
        """Poses of the people detected in a picture."""
        self.of_detected_boxes += _ranked_poses(example, result)

    def metrics(self, truth: COCO, image_ids: list[int]) -> dict[str, float]:
        """OKS AP, AP50 and AP75 for both kinds of boxes."""
        detected = self.of_detected_boxes if self.detects else None
        return prompted_precision(truth, "keypoints", image_ids, self.of_true_boxes, detected)


def _ranked_poses(example: Example, result: Result) -> list[dict]:
    people = np.flatnonzero([pose is not None for pose in result.poses])
    poses, instances = [result.poses[index] for index in people], result.instances[people]
    scores = instances.scores * np.array([pose.score for pose in poses])
    return coco_results(example.image_id, Result(Instances(instances.boxes, instances.classes, scores), poses=poses))
