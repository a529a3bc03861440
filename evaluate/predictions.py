"""What a model said about the images of a split, on its way from asking to scoring."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from pix2seq.infer.results import Result, coco_results

Boxes = Literal["true boxes", "detected boxes"]


@dataclass
class Answers:
    """About image `image_id`, number `index` of the split; what was not asked is None.

    `detected` holds the instances that the model found, with their masks and poses; `segmented` the masks of the true
    boxes of objects that have one, with their IoUs `mask_ious` (n,); `posed` the poses of the true boxes of people that
    have labelled keypoints; `references` are the true captions.
    """

    index: int
    image_id: int | str
    detected: Result | None = None
    segmented: Result | None = None
    mask_ious: np.ndarray = field(default_factory=lambda: np.zeros(0))
    posed: Result | None = None
    caption: str | None = None
    references: Sequence[str] = ()


@dataclass
class Scores:
    """Figures of one task: `metrics` by name, `per_class` by class name, and each 0 to 1 `quality` by image id.

    `results` are the answers in COCO's results format, as its evaluation server takes them.
    """

    metrics: dict[str, float]
    results: list[dict]
    quality: dict[int | str, float]
    per_class: dict[str, dict[str, float]] = field(default_factory=dict)


def results_of(pairs: Sequence[tuple[int | str, Result]], category_ids: Mapping[int, int]) -> list[dict]:
    """COCO results of (image id, answers) pairs, with the dataset's own category ids, without classes it lacks."""
    entries = (entry for image_id, result in pairs for entry in coco_results(image_id, result))
    return [
        entry | {"category_id": category_ids[entry["category_id"]]}
        for entry in entries
        if entry["category_id"] in category_ids
    ]
