"""A model without rounding errors, for tests of how a model's responses are used.

The logits of a random network have near ties, and their last digits depend on the processor, the number of threads and
the batch size, so its tokens may vary. The logits of this model are read from a table and never vary.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from pix2seq.config import ModelCFG
from pix2seq.infer.predictor import Predictor
from pix2seq.models.choices import Part
from pix2seq.models.sampling import LEAVING
from pix2seq.packing import Packing

STATES = 1009  # prime


@dataclass
class ExactCache:
    """A hash of the tokens so far, `state` (S,)."""

    state: Tensor
    leaving: float = LEAVING

    def keep(self, rows: Tensor) -> None:
        """Keep only some of the sequences."""
        self.state = self.state[rows]


class ExactModel:
    """Replaces `Pix2Seq`: the next logits are a row of a table that depends on the image and all tokens so far."""

    def __init__(self, cfg: ModelCFG) -> None:
        self.cfg = cfg
        self.table = 3 * torch.randn(STATES, cfg.vocab_size, generator=torch.Generator().manual_seed(0))

    def eval(self) -> ExactModel:
        return self

    def to(self, *args: object, **options: object) -> ExactModel:
        return self

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → memory (B, 1, 1), a hash of each image's pixels."""
        pixels = (255 * images).round().long().flatten(1)
        places = torch.arange(pixels.shape[1]) % STATES + 1
        return ((pixels * places).sum(1) % STATES).float()[:, None, None]

    def start(self, memory: Tensor, image_index: Tensor, max_length: int) -> ExactCache:
        return ExactCache(memory[image_index, 0, 0].long())

    def prepare(self, precision: str, compiled: bool) -> ExactModel:
        return self

    def step(self, tokens: Tensor, cache: ExactCache, part: Part | None = None) -> Tensor:
        for column in tokens.unbind(1):
            cache.state = (31 * cache.state + column) % STATES
        logits = self.table[cache.state]
        return logits if part is None else logits[:, part.ids]

    def score(self, memory: Tensor, packing: Packing) -> Tensor:
        logits = []
        for sequence, image in enumerate(packing.image_index):
            tokens = packing.tokens[packing.sequences == sequence]
            logits.append(self.decode_groups(memory, [(tokens[None], image[None])])[0][0])
        return torch.cat(logits)[packing.scored]

    def decode_groups(self, memory: Tensor, groups: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
        logits = []
        for tokens, image_index in groups:
            cache = self.start(memory, image_index, tokens.shape[1])
            logits.append(torch.stack([self.step(column, cache) for column in tokens.split(1, dim=1)], dim=1))
        return logits


def with_exact_model(predictor: Predictor) -> Predictor:
    """The predictor with an ExactModel: its responses are the same in any batch and on any processor."""
    generator = copy.copy(predictor.generator)
    generator.model = generator.decoder = ExactModel(predictor.trained.model)
    other = predictor.with_generator(generator)
    other.settings = dataclasses.replace(predictor.settings, coord_window=0)  # a mean would be rounded
    return other
