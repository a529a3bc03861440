"""What is predicted about an image, in the image's own pixels, and the same in COCO's results format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from pix2seq.dataset.geometry import Geometry

if TYPE_CHECKING:
    from pix2seq.infer.responses import Response
    from pix2seq.task import Task


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
class Canvas:
    """Where a response belongs: an image of `width` × `height` pixels, the `geometry` that took it to the model's
    canvas, and the `prompt` if the response is about one instance."""

    width: int
    height: int
    geometry: Geometry
    prompt: Prompt | None = None

    def clip_boxes(self, boxes: np.ndarray) -> np.ndarray:
        """Boxes (n, 4) x1 y1 x2 y2 cut to the image."""
        return np.clip(boxes, 0, [self.width, self.height, self.width, self.height])


@dataclass(frozen=True)
class Pose:
    """`keypoints` (P, 3) x y v in pixels; v is 2 where visible, else 0 and the point is the box's center."""

    keypoints: np.ndarray
    score: float


@dataclass(frozen=True)
class Answer:
    """A task's `prediction`, and the `responses` that it was read from, each to a prompt (P,) about a canvas: as many
    `prompts` and `canvases`, which differ where there are several views."""

    prediction: Any
    canvases: Sequence[Canvas]
    prompts: Sequence[np.ndarray]
    responses: Sequence[Response]


@dataclass(frozen=True)
class Result:
    """All that was predicted about one image: the `instances`, and by task name its predictions.

    Those of an instance task are a list that goes with `instances`, None for an instance that the task is not about;
    an image task has one prediction. Where they were wanted, `answers` are what predictions were read from: a list of
    one of an image task; of the task that finds instances, all that it found.
    """

    instances: Instances
    predictions: Mapping[str, Any] = field(default_factory=dict)
    answers: Mapping[str, Sequence[Answer | None]] = field(default_factory=dict)


def prompts_for(instances: Instances, image_number: int = 0) -> list[Prompt]:
    """A prompt for each instance of image `image_number`."""
    pairs = zip(instances.boxes, instances.classes, strict=True)
    return [Prompt(image_number, box, int(class_id)) for box, class_id in pairs]


def coco_results(
    image_id: int | str, result: Result, tasks: Mapping[str, Task], category_ids: Mapping[int, int] | None = None
) -> list[dict]:
    """COCO results: one dict for each instance with all that is predicted about it, and one for each prediction about
    the whole image.

    `category_ids` are a dataset's own ids by class id; a class that is not there keeps its id.
    """
    category_ids = category_ids or {}
    instances, entries = result.instances, []
    for index, (box, class_id, score) in enumerate(
        zip(instances.boxes, instances.classes, instances.scores, strict=True)
    ):
        category_id = category_ids.get(int(class_id), int(class_id))
        entry = {"image_id": image_id, "category_id": category_id, "bbox": xywh(box)}
        entry["score"] = round(float(score), 6)
        for name, predictions in result.predictions.items():
            if tasks[name].is_prompted and predictions[index] is not None:
                entry |= tasks[name].inference.coco_fields(predictions[index])
        entries.append(entry)
    for name, prediction in result.predictions.items():
        if not tasks[name].about_objects:
            entries.append({"image_id": image_id} | tasks[name].inference.coco_fields(prediction))
    return entries


def xywh(box: np.ndarray) -> list[float]:
    """A box (4,) x1 y1 x2 y2 as COCO writes it: x, y, width, height, to a hundredth of a pixel."""
    x1, y1, x2, y2 = box.tolist()
    return [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
