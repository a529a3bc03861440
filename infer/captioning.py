"""Predict captions of an image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pix2seq.config import InferCFG
from pix2seq.infer.consensus import by_typicality
from pix2seq.infer.draw import Drawing
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Canvas
from pix2seq.models.sampling import GREEDY, Sampling
from pix2seq.tokenizers.captioning import CaptioningTokenizer

IMAGE_FILE = None  # a caption is printed
VOTES_TEMPERATURE = 0.6  # of votes where no nucleus is set
SEVERAL_TOP_P = 0.8  # nucleus of several captions where none is set


@dataclass(frozen=True)
class Captions:
    """One or several captions of an image, the most typical of what was sampled first."""

    texts: tuple[str, ...]

    @property
    def best(self) -> str:
        """The first one."""
        return self.texts[0]


def sampling(settings: InferCFG) -> tuple[Sampling, int]:
    """One response, greedy or of a nucleus; or several sampled ones that vote, or that are wanted."""
    top_p, votes = settings.caption_top_p, settings.caption_votes
    if settings.num_captions > 1:
        top_p = top_p or SEVERAL_TOP_P
    if top_p:
        return Sampling(settings.temperature, top_p=top_p), max(votes, settings.num_captions)
    if votes > 1:
        return Sampling(settings.temperature * VOTES_TEMPERATURE), votes
    return GREEDY, 1


def read(
    responses: Sequence[Response], canvases: Sequence[Canvas], tokenizer: CaptioningTokenizer, settings: InferCFG
) -> Captions:
    """As many captions as are wanted, of several responses the most typical ones."""
    captions = [tokenizer.decode(response.tokens) for response in responses]
    return Captions(tuple(captions[place] for place in by_typicality(captions)[: settings.num_captions]))


def coco_fields(captions: Captions) -> dict:
    """The caption; where there are several, all of them too."""
    several = {"captions": list(captions.texts)} if len(captions.texts) > 1 else {}
    return {"caption": captions.best} | several


def describe(captions: Captions, drawing: Drawing) -> str:
    """A line for each caption."""
    return "\n".join(f"caption: {caption}" for caption in captions.texts)
