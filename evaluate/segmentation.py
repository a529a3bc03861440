"""Score segmentation: COCO's mask AP with true and with detected boxes as prompts, and mean IoU with true ones.

Masks of true boxes are ranked by the mean share of votes for their pixels, masks of detected boxes by the score of the
detection.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO

from dataset.coco import Example
from evaluate.coco_metrics import prompted_precision
from infer.masks import encode_mask, rasterize
from infer.results import Result, coco_results


@dataclass
class SegmentationScore:
    """Collects the masks of prompted instances; `detects` says whether the model finds boxes itself."""

    detects: bool
    of_true_boxes: list[dict] = field(default_factory=list)
    of_detected_boxes: list[dict] = field(default_factory=list)
    ious: list[float] = field(default_factory=list)

    def add_true_boxes(self, example: Example, result: Result) -> None:
        """Masks of all annotated instances of a picture, in their order."""
        scores = np.array([mask.score for mask in result.masks])
        ranked = replace(result, instances=replace(result.instances, scores=scores), poses=None)
        self.of_true_boxes += coco_results(example.image_id, ranked)
        for mask, polygons in zip(result.masks, example.polygons, strict=True):
            if polygons:
                true = encode_mask(rasterize(polygons, *example.image.shape[:2]))
                self.ious.append(float(coco_mask.iou([mask.rle], [true], [0])[0, 0]))

    def add_detected_boxes(self, example: Example, result: Result) -> None:
        """Masks of what was detected in a picture."""
        self.of_detected_boxes += coco_results(example.image_id, replace(result, poses=None))

    def metrics(self, truth: COCO, image_ids: list[int]) -> dict[str, float]:
        """Mean IoU, and mask AP, AP50 and AP75 for both kinds of boxes."""
        mean_iou = {"mean IoU, true boxes": float(np.mean(self.ious)) if self.ious else 0.0}
        detected = self.of_detected_boxes if self.detects else None
        return mean_iou | prompted_precision(truth, "segm", image_ids, self.of_true_boxes, detected)
