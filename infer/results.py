"""What the model answers about an image, in the image's own pixels, and the same in COCO's results format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pix2seq.infer.masks import Mask


@dataclass(frozen=True)
class Instances:
    """`boxes` (n, 4) x1 y1 x2 y2 in pixels, `classes` (n,) ids, `scores` (n,)."""

    boxes: np.ndarray
    classes: np.ndarray
    scores: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: np.ndarray) -> Instances:
        return Instances(self.boxes[index], self.classes[index], self.scores[index])

    @classmethod
    def none(cls) -> Instances:
        """No instances."""
        return cls(np.zeros((0, 4)), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True)
class Prompt:
    """Points at one instance: `box` (4,) x1 y1 x2 y2 in pixels of image `image_number` of a list."""

    image_number: int
    box: np.ndarray
    class_id: int


@dataclass(frozen=True)
class Pose:
    """`keypoints` (P, 3) x y v in pixels; v is 2 where visible, else 0 and the point is the box's centre."""

    keypoints: np.ndarray
    score: float


@dataclass(frozen=True)
class Result:
    """All that was asked about one image; `masks` and `poses` (None for what has no pose) go with `instances`."""

    instances: Instances
    masks: Sequence[Mask] | None = None
    poses: Sequence[Pose | None] | None = None
    caption: str | None = None


def prompts_for(instances: Instances, image_number: int = 0) -> list[Prompt]:
    """A prompt for each instance of image `image_number`."""
    pairs = zip(instances.boxes, instances.classes, strict=True)
    return [Prompt(image_number, box, int(class_id)) for box, class_id in pairs]


def coco_results(image_id: int | str, result: Result, category_ids: Mapping[int, int] | None = None) -> list[dict]:
    """COCO results: one dict for each instance with all that is known of it, and one for the caption.

    `category_ids` are a dataset's own ids by class id; a class that is not there keeps its id.
    """
    category_ids = category_ids or {}
    entries = []
    for index, (box, class_id, score) in enumerate(zip(*vars(result.instances).values(), strict=True)):
        category_id = category_ids.get(int(class_id), int(class_id))
        entry = {"image_id": image_id, "category_id": category_id, "bbox": _xywh(box)}
        entry["score"] = round(float(score), 6)
        if result.masks is not None:
            entry["segmentation"] = result.masks[index].rle
        if result.poses is not None and (pose := result.poses[index]) is not None:
            entry["keypoints"] = pose.keypoints.round(2).ravel().tolist()
        entries.append(entry)
    if result.caption is not None:
        entries.append({"image_id": image_id, "caption": result.caption})
    return entries


def _xywh(box: np.ndarray) -> list[float]:
    x1, y1, x2, y2 = box.tolist()
    return [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
