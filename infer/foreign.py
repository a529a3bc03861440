"""Results as objects of other libraries."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from pix2seq.errors import UserError
from pix2seq.runtime.extras import require_extra

if TYPE_CHECKING:
    import supervision

    from pix2seq.api import Result


def to_detections(result: Result) -> supervision.Detections:
    """Boxes, scores, classes and, if they were asked for, masks of all instances."""
    require_extra("supervision", "supervision", needed_by="to_supervision()")
    import supervision

    return supervision.Detections(
        xyxy=result.boxes.astype(np.float32).reshape(-1, 4),
        mask=result.masks,
        confidence=result.scores.astype(np.float32),
        class_id=result.classes.astype(int),
        data={"class_name": np.array(result.class_names, dtype=str)},
    )


def to_key_points(result: Result) -> supervision.KeyPoints:
    """The keypoints of the instances that have some. Those that are not visible are at 0, 0, where annotators of
    supervision draw nothing."""
    require_extra("supervision", "supervision", needed_by="to_supervision_keypoints()")
    import supervision

    if result.keypoints is None:
        raise UserError("there are no keypoints in this result; ask for the task keypoint")
    posed = result.keypoints.any(axis=(1, 2))
    points = result.keypoints[posed]
    names: Any = np.array(result.class_names, dtype=str)
    return supervision.KeyPoints(
        xy=np.where(points[..., 2:] > 0, points[..., :2], 0).astype(np.float32),
        class_id=result.classes[posed].astype(int),
        data={"class_name": names[posed]},
    )
