"""Score detection: COCO's box AP."""

from __future__ import annotations

from dataclasses import dataclass, field

from pycocotools.coco import COCO

from dataset.coco import Example
from evaluate.coco_metrics import average_precision
from infer.results import Instances, Result, coco_results


@dataclass
class DetectionScore:
    """Collects the detections in pictures."""

    results: list[dict] = field(default_factory=list)

    def add(self, example: Example, detected: Instances) -> None:
        """What was detected in a picture; everything counts, however unsure."""
        self.results += coco_results(example.image_id, Result(detected))

    def metrics(self, truth: COCO, image_ids: list[int]) -> dict[str, float]:
        """Box AP, AP50 and AP75."""
        return average_precision(truth, self.results, "bbox", image_ids)
