"""What a model predicts about the images of a split, on its way to being scored."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from pix2seq.dataset.coco import Example
from pix2seq.evaluate.reliability import Reliability
from pix2seq.infer.results import Instances, Result

Boxes = Literal["true boxes", "detected boxes"]


@dataclass
class ImagePredictions:
    """About image `image_id`, number `index` of the split, by task name.

    `found` holds the instances that the model found, None if it finds none; `detected` the surer ones with what
    instance tasks predict about them, None if no such task is asked. `prompted` holds what each instance task predicts
    about the ground truth's instances that are labeled for it, `whole` what image tasks predict. `evidence` is what
    scoring needs of the ground truth.
    """

    index: int
    image_id: int | str
    found: Instances | None = None
    detected: Result | None = None
    prompted: dict[str, Result] = field(default_factory=dict)
    whole: dict[str, Any] = field(default_factory=dict)
    evidence: dict[str, Any] = field(default_factory=dict)


@dataclass
class Scores:
    """Figures of one task: `metrics` by name, `per_class` by class name, and each 0 to 1 `quality` by image id.

    `results` are the predictions in COCO's results format, as its evaluation server takes them; `reliability` says how
    often those of a score are right.
    """

    metrics: dict[str, float]
    results: list[dict]
    quality: dict[int | str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)
    reliability: Reliability | None = None


def results_of(
    about_images: Iterable[tuple[int | str, Instances, Sequence[dict[str, Any]]]], category_ids: Mapping[int, int]
) -> list[dict]:
    """COCO results of (image id, instances, and fields of each instance), with the dataset's own category ids,
    without classes that it lacks."""
    return [
        {"image_id": image_id, "category_id": category_ids[class_id], "score": round(float(score), 6)} | fields
        for image_id, instances, all_fields in about_images
        for class_id, score, fields in zip(instances.classes.tolist(), instances.scores, all_fields, strict=True)
        if class_id in category_ids
    ]


def true_instances(example: Example) -> Instances:
    """The annotated objects, certain."""
    return Instances(example.boxes, example.classes, np.ones(len(example.classes)))
