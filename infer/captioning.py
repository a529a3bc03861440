"""Predict a caption of an image."""

from __future__ import annotations

from collections.abc import Sequence

from pix2seq.config import InferCFG
from pix2seq.infer.consensus import most_typical
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas
from pix2seq.models.sampling import GREEDY, Sampling
from pix2seq.tokenizers.captioning import CaptioningTokenizer

IMAGE_FILE = None  # a caption is printed


VOTES_TEMPERATURE = 0.6  # of votes where no nucleus is set


def sampling(settings: InferCFG) -> tuple[Sampling, int]:
    """One response, greedy or of a nucleus; or several sampled ones that vote."""
    top_p, votes = settings.caption_top_p, settings.caption_votes
    if top_p:
        return Sampling(settings.temperature, top_p=top_p), votes
    if votes > 1:
        return Sampling(settings.temperature * VOTES_TEMPERATURE), votes
    return GREEDY, 1


def read(
    responses: Sequence[Response], canvases: Sequence[Canvas], tokenizer: CaptioningTokenizer, settings: InferCFG
) -> str:
    """The caption, or of several the most typical one."""
    captions = [tokenizer.decode(response.tokens) for response in responses]
    return captions[most_typical(captions)]


def coco_fields(caption: str) -> dict:
    """The caption."""
    return {"caption": caption}


def describe(caption: str) -> str:
    """A line with the caption."""
    return f"caption: {caption}"
