"""Predict the keypoints of an instance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.config import InferCFG
from pix2seq.infer.draw import Drawing, back_to_front
from pix2seq.infer.overlay import paint_skeleton
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas, Instances, Pose
from pix2seq.models.sampling import Sampling
from pix2seq.tokenizers.keypoint import KeypointTokenizer

IMAGE_FILE = "keypoint_detection.png"


def sampling(settings: InferCFG) -> tuple[Sampling, int]:
    """One response, greedy or of a nucleus; with `suppress_invisible` also where invisible points would likeliest
    be."""
    suppress, top_p = settings.suppress_invisible, settings.keypoint_top_p
    if top_p:
        return Sampling(settings.temperature, top_p=top_p, coords_too=suppress), 1
    window, threshold = settings.coord_window, settings.invisible_threshold
    return Sampling(coord_window=window, coords_too=suppress, invisible_threshold=threshold), 1


def read(responses: Sequence[Response], canvas: Canvas, tokenizer: KeypointTokenizer, settings: InferCFG) -> Pose:
    """The pose; a point without coordinates is put at the center of the prompted box."""
    response = responses[0]
    predicted = placed = tokenizer.decode(response.tokens, response.probs)
    if settings.suppress_invisible:
        placed = tokenizer.decode(response.coords, response.coord_probs)
    points = np.clip(canvas.geometry.from_fractions(placed.points), 0, [canvas.width, canvas.height])
    center = np.reshape(canvas.prompt.box, (2, 2)).mean(axis=0)
    points = np.where(placed.visible[:, None], points, center)
    return Pose(np.column_stack([points, np.where(predicted.visible, 2, 0)]), placed.score)


def draw(image: np.ndarray, instances: Instances, poses: Sequence[Pose | None], drawing: Drawing) -> np.ndarray:
    """The image with the skeleton of each instance that has one: left, right and middle differ in color."""
    canvas = np.ascontiguousarray(image).copy()
    for index in back_to_front(instances):
        if poses[index] is not None:
            paint_skeleton(canvas, poses[index].keypoints, instances.boxes[index], drawing.skeleton)
    return canvas


def coco_fields(pose: Pose) -> dict:
    """x, y and v of every point."""
    return {"keypoints": pose.keypoints.round(2).ravel().tolist()}
