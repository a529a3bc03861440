"""What the drawings of all tasks share: labels, the order of painting, class names and skeleton.

Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from pix2seq.dataset.skeleton import COCO_PERSON, Skeleton
from pix2seq.infer.overlay import class_color, paint_box, paint_labels
from pix2seq.infer.results import Instances


@dataclass(frozen=True)
class Drawing:
    """What the numbers in a result stand for; without `show_scores` labels are class names alone."""

    class_names: Mapping[int, str]
    skeleton: Skeleton = COCO_PERSON
    show_scores: bool = True


def draw_boxes(image: np.ndarray, instances: Instances, drawing: Drawing) -> np.ndarray:
    """A copy of the image with a box and a label for each instance."""
    canvas = np.ascontiguousarray(image).copy()
    for index in back_to_front(instances):
        paint_box(canvas, instances.boxes[index], class_color(int(instances.classes[index])))
    label_boxes(canvas, instances, drawing)
    return canvas


def back_to_front(instances: Instances) -> list[int]:
    """Indices of the instances, the largest first, so that small ones stay in sight."""
    boxes = instances.boxes
    return np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).tolist()


def label_boxes(canvas: np.ndarray, instances: Instances, drawing: Drawing) -> None:
    """A tag with class and score at each box, in place."""
    texts = []
    for class_id, score in zip(instances.classes.tolist(), instances.scores, strict=True):
        name = str(drawing.class_names.get(class_id, class_id))
        texts.append(f"{name} {100 * score:.0f}%" if drawing.show_scores else name)
    paint_labels(canvas, instances.boxes, texts, [class_color(class_id) for class_id in instances.classes.tolist()])
