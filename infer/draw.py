"""Paint results on an image: boxes, masks and skeletons, each with a label.

Images are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

import numpy as np

from pix2seq.dataset.overlay import class_color, paint_box, paint_labels, paint_mask, paint_skeleton, save_png
from pix2seq.dataset.skeleton import COCO_PERSON, Skeleton
from pix2seq.infer.masks import decode_mask
from pix2seq.infer.results import Result

__all__ = ["class_color", "draw_detections", "draw_keypoints", "draw_masks", "save_png"]


def draw_detections(image: np.ndarray, result: Result, class_names: dict[int, str]) -> np.ndarray:
    """The image with a box and a label for each instance."""
    canvas = np.ascontiguousarray(image).copy()
    instances = result.instances
    for index in _back_to_front(result):
        paint_box(canvas, instances.boxes[index], class_color(int(instances.classes[index])))
    _paint_labels(canvas, result, class_names)
    return canvas


def draw_masks(image: np.ndarray, result: Result, class_names: dict[int, str]) -> np.ndarray:
    """The image with each instance tinted and outlined, and labelled."""
    canvas = np.ascontiguousarray(image).copy()
    for index in _back_to_front(result):
        paint_mask(canvas, decode_mask(result.masks[index].rle), class_color(int(result.instances.classes[index])))
    _paint_labels(canvas, result, class_names)
    return canvas


def draw_keypoints(
    image: np.ndarray, result: Result, class_names: dict[int, str], skeleton: Skeleton = COCO_PERSON
) -> np.ndarray:
    """The image with the skeleton of each instance that has one: left, right and middle differ in color."""
    canvas = np.ascontiguousarray(image).copy()
    for index in _back_to_front(result):
        if result.poses[index] is not None:
            paint_skeleton(canvas, result.poses[index].keypoints, result.instances.boxes[index], skeleton)
    return canvas


def _back_to_front(result: Result) -> list[int]:
    """Indices of the instances, the largest first, so that small ones stay in sight."""
    boxes = result.instances.boxes
    return np.argsort(-np.prod(boxes[:, 2:] - boxes[:, :2], axis=1)).tolist()


def _paint_labels(canvas: np.ndarray, result: Result, class_names: dict[int, str]) -> None:
    """A tag with class and score at each box."""
    instances = result.instances
    pairs = list(zip(instances.classes.tolist(), instances.scores, strict=True))
    texts = [f"{class_names.get(class_id, class_id)} {100 * score:.0f}%" for class_id, score in pairs]
    paint_labels(canvas, instances.boxes, texts, [class_color(class_id) for class_id, _ in pairs])
