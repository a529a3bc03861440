"""Predict the objects of an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.config import InferCFG
from pix2seq.infer.draw import Drawing, draw_boxes
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas, Instances
from pix2seq.models.sampling import Sampling
from pix2seq.tokenizers.detection import DetectionTokenizer

IMAGE_FILE = "object_detection.png"


def sampling(settings: InferCFG) -> tuple[Sampling, int]:
    """Greedy coordinates, or those of a nucleus; one response."""
    if settings.detection_top_p:
        return Sampling(settings.temperature, top_p=settings.detection_top_p), 1
    return Sampling(end_threshold=settings.end_threshold, coord_window=settings.coord_window), 1


def read(responses: Sequence[Response], canvas: Canvas, tokenizer: DetectionTokenizer, settings: InferCFG) -> Instances:
    """The instances, highest score first, boxes clipped to the image; none of them is empty."""
    detections = tokenizer.decode(responses[0].tokens, responses[0].probs)
    boxes = canvas.clip_boxes(canvas.geometry.boxes_from_fractions(detections.boxes))
    order = np.argsort(-detections.scores, kind="stable")
    order = order[(boxes[order, 2:] > boxes[order, :2]).all(axis=1)]
    return Instances(boxes, detections.classes, detections.scores)[order]


def draw(image: np.ndarray, instances: Instances, predictions: Instances, drawing: Drawing) -> np.ndarray:
    """The image with a box and a label for each instance."""
    return draw_boxes(image, instances, drawing)
