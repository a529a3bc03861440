"""A predictor that knows the truth: said in tokens, read back and brought to pixels, it loses next to nothing.

What is lost is the ceiling of every model with these settings: coordinate bins, polygons of at most `--max-points`,
keypoints outside the crop.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import nn

from pix2seq.config import CFG
from pix2seq.dataset.batches import Readable
from pix2seq.dataset.coco import Example, ImageDataset
from pix2seq.dataset.detection import detection_sequence
from pix2seq.dataset.geometry import Geometry
from pix2seq.dataset.keypoint import has_keypoints, keypoint_sequence
from pix2seq.dataset.segmentation import has_mask, segmentation_sequence
from pix2seq.infer.predictor import GREEDY, Answer, Encoded, Predictor
from pix2seq.models.weights import Weights
from pix2seq.tokenizers.captioning import WordVocabulary
from pix2seq.tokenizers.vocabulary import CLASS_SHIFT, TokenSequence, dequantize

OTHER_CLASS = 1e6  # distance, in pixels, of an object of another class


class Oracle(Predictor):
    """Answers with the truth of `split`, in tokens, and is sure of it; it knows an image by its pixels."""

    def __init__(self, split: ImageDataset, cfg: CFG) -> None:
        text = WordVocabulary.build(split.all_captions(), 1)
        weights = Weights(nn.Identity(), cfg, split.class_names, text.describe(), split.skeleton.to_dict())
        super().__init__(weights, cfg, torch.device("cpu"))
        self.rng = np.random.default_rng(cfg.seed)
        loaded = map(Readable(split).__getitem__, range(len(split)))
        examples = (example for example in loaded if isinstance(example, Example))
        self.known = {_digest(example.image): _without_pixels(example) for example in examples}

    def _encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        return Encoded([self.known[_digest(image)] for image in images], geometries)

    def _answers(
        self,
        task: str,
        encoded: Encoded,
        prompts: Sequence[np.ndarray],
        sampling=GREEDY,
        num_samples: int = 1,
    ) -> list[Answer]:
        answers = []
        for example, geometry, prompt in zip(encoded.memory, encoded.geometries, prompts, strict=True):
            sequence = self._truth(task, example, geometry, prompt)
            said = sequence.target[len(prompt) - 1 :]
            sureness = _sureness_by_size(said) if task == "detection" else np.ones(len(said))
            answers += [Answer(said, sureness)] * num_samples
        return answers

    def _truth(self, task: str, example: Example, geometry: Geometry, prompt: np.ndarray) -> TokenSequence:
        tokenizer = self.tokenizers[task]
        if task == "detection":
            return detection_sequence(example, geometry, tokenizer, self.cfg, self.rng)
        if task == "captioning":
            return tokenizer.encode(example.captions[0])
        box, index = dequantize(prompt[1:5]), _prompted(task, example, geometry, prompt)
        if task == "keypoint":
            return keypoint_sequence(example, index, box, geometry, False, tokenizer)
        if not example.polygons[index]:  # not known, so that it is not scored
            y1, x1, y2, x2 = box
            return tokenizer.encode(box, example.classes[index], [np.array([[y1, x1], [y1, x2], [y2, x2], [y2, x1]])])
        return segmentation_sequence(example, index, box, geometry, tokenizer, self.cfg.model.max_points, self.rng)


def _sureness_by_size(objects: np.ndarray) -> np.ndarray:
    """Probabilities (T,) of detection tokens (T,): the larger object is surer, as its bins are finer to it."""
    probs = np.ones(len(objects))
    groups = objects[: len(objects) // 5 * 5].reshape(-1, 5)
    y1, x1, y2, x2 = dequantize(groups[:, :4]).T
    probs[: groups.size] = np.repeat(((y2 - y1) * (x2 - x1)) ** 0.25, 5)
    return probs


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()


def _without_pixels(example: Example) -> Example:
    return replace(example, image=np.broadcast_to(np.uint8(0), example.image.shape))


def _prompted(task: str, example: Example, geometry: Geometry, prompt: np.ndarray) -> int:
    """The object that a prompt means: of two with the same box, the one about which `task` knows something."""
    box = geometry.boxes_from_fractions(dequantize(prompt[1:5]))[0]
    distance = np.abs(example.boxes - box).sum(axis=1)
    distance += OTHER_CLASS * (example.classes != prompt[5] - CLASS_SHIFT)
    known = has_mask(example) if task == "segmentation" else has_keypoints(example)
    return int(np.lexsort((~known, distance.round()))[0])
