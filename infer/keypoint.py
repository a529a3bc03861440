"""Predict the keypoints of an instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pix2seq.config import InferCFG
from pix2seq.infer.draw import Drawing, back_to_front
from pix2seq.infer.overlay import paint_skeleton
from pix2seq.infer.pose_votes import merge_points
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas, Instances, Pose
from pix2seq.models.sampling import Sampling
from pix2seq.tokenizers.keypoint import Keypoints, KeypointTokenizer

IMAGE_FILE = "keypoint_detection.png"
VOTES_TOP_P = 0.8  # nucleus of votes where none is set


def sampling(settings: InferCFG) -> tuple[Sampling, int]:
    """One response, greedy or of a nucleus, or several that vote; with `suppress_invisible` also where invisible points
    would likeliest be."""
    suppress, top_p, votes = settings.suppress_invisible, settings.keypoint_top_p, settings.keypoint_votes
    if votes > 1:
        top_p = top_p or VOTES_TOP_P
    if top_p:
        return Sampling(settings.temperature, top_p=top_p, coords_too=suppress), votes
    window, threshold = settings.coord_window, settings.invisible_threshold
    return Sampling(coord_window=window, coords_too=suppress, invisible_threshold=threshold), 1


def read(
    responses: Sequence[Response], canvases: Sequence[Canvas], tokenizer: KeypointTokenizer, settings: InferCFG
) -> Pose:
    """The pose, or that on which several agree; points without coordinates are put at the center of the box."""
    canvas = canvases[0]
    chosen = placed = [
        _decode(response.tokens, response.probs, at, tokenizer)
        for response, at in zip(responses, canvases, strict=True)
    ]
    if settings.suppress_invisible:
        placed = [
            _decode(response.coords, response.coord_probs, at, tokenizer)
            for response, at in zip(responses, canvases, strict=True)
        ]
    points = [at.geometry.from_fractions(pose.points) for pose, at in zip(placed, canvases, strict=True)]
    points = np.stack(points)  # (N, K, 2)
    has_place = np.stack([pose.visible for pose in placed])
    if len(responses) == 1:
        points, visible, score = points[0], chosen[0].visible, placed[0].score
    else:
        x1, y1, x2, y2 = canvas.prompt.box
        points, agreement = merge_points(points, has_place, (x2 - x1) * (y2 - y1))
        visible = np.mean([pose.visible for pose in chosen], axis=0) > 1 - (settings.invisible_threshold or 0.5)
        score = float(agreement.mean())
    points = np.clip(points, 0, [canvas.width, canvas.height])
    center = np.reshape(canvas.prompt.box, (2, 2)).mean(axis=0)
    points = np.where(has_place.any(axis=0)[:, None], points, center)
    return Pose(np.column_stack([points, np.where(visible, 2, 0)]), score)


def _decode(tokens: np.ndarray, probs: np.ndarray, canvas: Canvas, tokenizer: KeypointTokenizer) -> Keypoints:
    """The points of one response; on a mirrored canvas what is called left is the right one."""
    pose = tokenizer.decode(tokens, probs)
    if not canvas.geometry.is_mirrored:
        return pose
    flip = list(tokenizer.flip)
    return replace(pose, points=pose.points[flip], visible=pose.visible[flip])


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


def describe(pose: Pose, drawing: Drawing) -> str:
    """A line with the names and places of the visible points."""
    points = [
        f"{name}={x:.0f},{y:.0f}"
        for name, (x, y, visible) in zip(drawing.skeleton.names, pose.keypoints.tolist(), strict=True)
        if visible
    ]
    return f"keypoints: {' '.join(points) or 'none is visible'}"
