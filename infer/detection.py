"""Predict the objects of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.config import InferCFG
from pix2seq.infer.calibration import calibrate
from pix2seq.infer.draw import Drawing, draw_boxes
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas, Instances
from pix2seq.infer.votes import merge_votes
from pix2seq.models.sampling import Sampling
from pix2seq.tokenizers.detection import DetectionTokenizer

IMAGE_FILE = "object_detection.png"
ALTERNATIVES = 8  # likeliest classes of a box that votes count for; nearly all of the probability is theirs
VOTES_TOP_P = 0.7  # nucleus of votes where none is set


def sampling(settings: InferCFG) -> tuple[Sampling, int]:
    """One response, greedy or of a nucleus; or several sampled ones that vote."""
    top_p, votes, read_drawn = settings.detection_top_p, settings.detection_votes, settings.read_drawn_class
    if votes > 1:
        top_p = top_p or VOTES_TOP_P
    if top_p:
        alternatives = ALTERNATIVES if votes > 1 else 0
        return Sampling(settings.temperature, top_p=top_p, read_drawn=read_drawn, alternatives=alternatives), votes
    window, threshold = settings.coord_window, settings.end_threshold
    return Sampling(coord_window=window, end_threshold=threshold, read_drawn=read_drawn), 1


def read(
    responses: Sequence[Response], canvases: Sequence[Canvas], tokenizer: DetectionTokenizer, settings: InferCFG
) -> Instances:
    """The instances, highest score first, boxes clipped to the image; none of them is empty."""
    found = [_decode(response, at, tokenizer) for response, at in zip(responses, canvases, strict=True)]
    detections = merge_votes(found) if len(found) > 1 else found[0]
    boxes = canvases[0].clip_boxes(detections.boxes)
    scores = calibrate(detections.scores, settings.calibration_slope, settings.calibration_offset)
    order = np.argsort(-detections.scores, kind="stable")
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(axis=1)]
    return Instances(boxes, detections.classes, scores)[order]


def _decode(response: Response, canvas: Canvas, tokenizer: DetectionTokenizer) -> Instances:
    """The objects of one response, in each class that they may have if that was asked for."""
    if response.alternatives is None:
        found = tokenizer.decode(response.tokens, response.probs)
    else:
        found = tokenizer.decode_alternatives(response.tokens, response.alternatives, response.alternative_probs)
    return Instances(canvas.geometry.boxes_from_fractions(found.boxes), found.classes, found.scores)


def draw(image: np.ndarray, instances: Instances, predictions: Instances, drawing: Drawing) -> np.ndarray:
    """The image with a box and a label for each instance."""
    return draw_boxes(image, instances, drawing)
