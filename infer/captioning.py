"""Predict a caption of an image."""

from __future__ import annotations

from collections.abc import Sequence

from pix2seq.config import InferCFG
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas
from pix2seq.models.sampling import GREEDY, Sampling
from pix2seq.tokenizers.captioning import CaptioningTokenizer

IMAGE_FILE = None  # a caption is printed


def sampling(settings: InferCFG) -> tuple[Sampling, int]:
    """One response, greedy or of a nucleus."""
    top_p = settings.caption_top_p
    return Sampling(settings.temperature, top_p=top_p) if top_p else GREEDY, 1


def read(responses: Sequence[Response], canvas: Canvas, tokenizer: CaptioningTokenizer, settings: InferCFG) -> str:
    """The caption."""
    return tokenizer.decode(responses[0].tokens)


def coco_fields(caption: str) -> dict:
    """The caption."""
    return {"caption": caption}


def describe(caption: str) -> str:
    """A line with the caption."""
    return f"caption: {caption}"
