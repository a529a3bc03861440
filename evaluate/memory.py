"""A generator that asks the auxiliary head instead of the decoder: what it finds is what the memory holds.

The decoder that finds fewer objects loses what is there; where the head finds none either, the encoder is the limit.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pix2seq.dataset.geometry import Geometry
from pix2seq.errors import UserError
from pix2seq.infer.encoded import Encoded, chunks
from pix2seq.infer.generator import ModelGenerator
from pix2seq.infer.responses import Response
from pix2seq.infer.results import Instances
from pix2seq.infer.votes import MIN_SCORE, merge_votes
from pix2seq.models.auxiliary_head import OCTAVES, AuxiliaryHead, from_fourier
from pix2seq.models.sampling import Sampling
from pix2seq.runtime.checkpoint import CHECKPOINT, load_checkpoint

HEAD = "1."  # the head in what a run trains, after the model


def read_head(run_folder: Path, step: int, device: torch.device) -> AuxiliaryHead:
    """The auxiliary head of a run's checkpoint, which must be of the same training `step` as the weights beside it."""
    state = load_checkpoint(run_folder / CHECKPOINT, device)
    trained = state["trained"]
    own = {name.removeprefix(HEAD): tensor for name, tensor in trained.items() if name.startswith(HEAD)}
    if not own:
        raise UserError(f"the run {run_folder} has no auxiliary head; train one with --auxiliary-weight above 0")
    if state["step"] != step:
        raise UserError(
            f"the checkpoint in {run_folder} is of step {state['step']}, the weights beside it of step {step}; "
            "wait until the run has written both"
        )
    (num_classes, width), coords = own["classify.weight"].shape, len(own["locate.weight"]) // (2 * OCTAVES)
    head = AuxiliaryHead(width, num_classes, (coords - 4) // 2)
    head.load_state_dict(own)
    return head.eval().to(device)


class MemoryGenerator:
    """Responds with the objects that `head` reads from the memory of `generator`'s model; of those that neighbors
    have in common the surest stays."""

    def __init__(self, generator: ModelGenerator, head: AuxiliaryHead) -> None:
        self.generator, self.head = generator, head

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        """See SequenceGenerator."""
        return self.generator.encode(images, geometries)

    @torch.inference_mode()
    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        """See SequenceGenerator; all responses to a prompt are equal."""
        tokenizer, responses = self.generator.tokenizers[task], []
        for part in chunks(len(prompts), self.generator.chunk_size):
            memory, image_index = encoded.chunk(part)
            logits, codes = self.head(memory)
            found = [
                merge_votes([detections_of(*cells, tokenizer.class_ids)])
                for cells in zip(logits.softmax(-1), from_fourier(codes[:, :, :4]), strict=True)
            ]
            for number in image_index.tolist():
                tokens = tokenizer.encode(found[number].boxes, found[number].classes).response(tokenizer.prompt_length)
                probs = np.append(found[number].scores.repeat(5), 1.0)[: len(tokens)]
                responses += [Response(tokens, probs)] * num_samples
        return responses


def detections_of(probs: Tensor, boxes: Tensor, class_ids: Sequence[int]) -> Instances:
    """What cells with the class distributions `probs` (N, K) and `boxes` (N, 4) hold: each box in each class that is
    probable enough."""
    known = np.asarray(class_ids)
    scores = probs.cpu().numpy()[:, known]
    cell, column = np.nonzero(scores >= MIN_SCORE)
    return Instances(boxes.cpu().numpy()[cell].astype(np.float64), known[column], scores[cell, column])
