"""A generator that knows the ground truth: put into tokens, read back and brought to pixels, it loses next to nothing.

What is lost is the upper bound of every model with these settings: coordinate bins, polygons of at most `--max-points`,
keypoints outside the crop.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
import torch

from pix2seq.config import CFG
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.geometry import Geometry
from pix2seq.errors import Unreadable
from pix2seq.infer.encoded import Encoded
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.responses import Response
from pix2seq.models.sampling import Sampling
from pix2seq.task import Task
from pix2seq.tokenizers.build import Tokenizers
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.vocabulary import LabelSpace


class GroundTruthGenerator:
    """Responds with the annotations of `split`, in tokens; it knows an image by its pixels."""

    def __init__(self, split: ImageDataset, tasks: Mapping[str, Task], tokenizers: Tokenizers, cfg: CFG) -> None:
        self.tasks, self.tokenizers, self.cfg = tasks, tokenizers, cfg
        self.rng = np.random.default_rng(cfg.seed)
        self.examples: list[Example] = []
        self.known: dict[bytes, int] = {}
        split.leave_out_unreadable()  # frames and file names are settled first, as the evaluation will have them
        for index in range(len(split)):
            with contextlib.suppress(Unreadable):
                example = split[index]
                self.known[_digest(example.image)] = len(self.examples)
                self.examples.append(_without_pixels(example))

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        """The memory (B, 1, 1) of a canvas is the number of its example."""
        numbers = [self.known[_digest(image)] for image in images]
        return Encoded(torch.tensor(numbers).view(-1, 1, 1), geometries, np.arange(len(geometries)))

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        """See SequenceGenerator: the same response for all samples, whatever the sampling."""
        responses = []
        for query, prompt in enumerate(prompts):
            example = self.examples[int(encoded.memory[encoded.image_index[query]])]
            question = example, encoded.geometry(query), prompt, self.tokenizers[task], self.cfg, self.rng
            tokens, probs = self.tasks[task].evaluation.ground_truth(*question)
            responses += [Response(tokens, probs, coords=tokens, coord_probs=probs)] * num_samples
        return responses


def ground_truth_predictor(split: ImageDataset, tasks: Mapping[str, Task], cfg: CFG) -> Predictor:
    """A predictor that is as good as the settings of a model allow."""
    text = WordVocabulary.build(split.all_captions(), 1)
    labels = LabelSpace(sorted(split.class_names), len(split.skeleton), text)
    tokenizers = Tokenizers.build(tasks, cfg, labels)
    generator = GroundTruthGenerator(split, tasks, tokenizers, cfg)
    return Predictor(generator, tasks, cfg, cfg.infer, split.class_names, split.skeleton, tokenizers)


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _without_pixels(example: Example) -> Example:
    return replace(example, image=np.broadcast_to(np.uint8(0), example.image.shape))
