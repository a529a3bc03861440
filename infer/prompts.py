"""Instances that a user points at, as if they had been detected for certain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from pix2seq.errors import UserError
from pix2seq.infer.results import Instances

Class = int | str  # a class id, or the class's name


def pointed_at(
    boxes: np.ndarray | Sequence[Sequence[float]],
    classes: Class | Sequence[Class],
    class_names: Mapping[int, str],
    width: int,
    height: int,
    allowed: Sequence[int] | None = None,
) -> Instances:
    """The instances in `boxes` (n, 4) x1 y1 x2 y2 in pixels, or a single one (4,), of an image of `width` × `height`.

    `classes` is one class for all of them or one for each, of `class_names`; `allowed` are the ids that make sense.
    Boxes are clipped to the image. Raises UserError for boxes that are none or lie outside, and for other classes.
    """
    try:
        given = np.array(boxes, dtype=np.float64)
    except (TypeError, ValueError):
        given = np.zeros(1)  # of no shape that is expected
    if given.size and (given.ndim > 2 or given.shape[-1] != 4):
        raise UserError(f"boxes are expected as an array (n, 4) of x1 y1 x2 y2, got {given.shape}")
    given = given.reshape(-1, 4)
    if not np.isfinite(given).all() or (given[:, 2:] <= given[:, :2]).any():
        raise UserError("boxes are expected as x1 y1 x2 y2 in pixels, all finite, with x1 < x2 and y1 < y2")
    clipped = np.clip(given, 0, [width, height, width, height])
    if (outside := (clipped[:, 2:] <= clipped[:, :2]).any(axis=1)).any():
        box = ", ".join(f"{value:g}" for value in given[outside][0])
        raise UserError(f"the box {box} (x1 y1 x2 y2) lies outside the image of {width} × {height} pixels")
    each = [classes] * len(given) if isinstance(classes, (int, str, np.integer)) else list(classes)
    if len(each) != len(given):
        raise UserError(f"expected one class for all boxes or one for each of the {len(given)}, got {len(each)}")
    ids = np.array([_class_id(name, class_names, allowed) for name in each], dtype=np.int64)
    return Instances(clipped, ids, np.ones(len(given)))


def _class_id(name: Class, class_names: Mapping[int, str], allowed: Sequence[int] | None) -> int:
    ids = [class_id for class_id, known in class_names.items() if name in (class_id, known)]
    if not ids:
        raise UserError(f"expected a class among {', '.join(class_names.values())}; got {name!r}")
    if allowed is not None and ids[0] not in allowed:
        usual = " or ".join(class_names[class_id] for class_id in allowed if class_id in class_names)
        raise UserError(f"only a {usual} has keypoints; got a {class_names[ids[0]]}")
    return ids[0]
