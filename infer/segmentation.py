"""Predict the mask of an instance: sampled outlines vote on it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pix2seq.config import InferCFG
from pix2seq.dataset.masks import decode_mask, mask_area
from pix2seq.infer.draw import Drawing, back_to_front, label_boxes
from pix2seq.infer.masks import Mask, vote
from pix2seq.infer.overlay import class_color, paint_mask
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas, Instances
from pix2seq.models.sampling import Sampling
from pix2seq.tokenizers.segmentation import SegmentationTokenizer

IMAGE_FILE = "instance_segmentation.png"


def sampling(settings: InferCFG) -> tuple[Sampling, int]:
    """`num_samples` sampled outlines, or a single greedy one."""
    if settings.num_samples == 1:
        return Sampling(max_tokens=settings.mask_tokens), 1
    sampled = Sampling(settings.temperature, settings.top_k, settings.top_p, max_tokens=settings.mask_tokens)
    return sampled, settings.num_samples


def read(
    responses: Sequence[Response], canvases: Sequence[Canvas], tokenizer: SegmentationTokenizer, settings: InferCFG
) -> Mask:
    """The mask, at the image's size."""
    samples = [
        [canvas.geometry.from_fractions(polygon) for polygon in tokenizer.decode(response.tokens)]
        for response, canvas in zip(responses, canvases, strict=True)
    ]
    return vote(samples, canvases[0].height, canvases[0].width, settings.mask_threshold)


def draw(image: np.ndarray, instances: Instances, masks: Sequence[Mask], drawing: Drawing) -> np.ndarray:
    """The image with each instance tinted, outlined and labeled."""
    canvas = np.ascontiguousarray(image).copy()
    for index in back_to_front(instances):
        paint_mask(canvas, decode_mask(masks[index].rle), class_color(int(instances.classes[index])))
    label_boxes(canvas, instances, drawing)
    return canvas


def coco_fields(mask: Mask) -> dict:
    """The mask's run lengths."""
    return {"segmentation": mask.rle}


def describe(mask: Mask, drawing: Drawing) -> str:
    """A line with the mask's area."""
    return f"mask: {mask_area(mask.rle):,} pixels"
