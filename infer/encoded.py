"""The seam between what asks and what answers: from images and prompts to token responses.

A Predictor asks a SequenceGenerator. One is a trained model (`generator.py`), one an exported model
(`onnx_predictor.py`); `evaluate` has one that knows the ground truth, and one that leaves out the grammars.
Nothing here needs torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from pix2seq.config import ModelCFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.infer.responses import Response
from pix2seq.models.sampling import Sampling
from pix2seq.tokenizers.vocabulary import Grammar, Tokenizer


@dataclass(frozen=True)
class Encoded:
    """Encoded canvases: `memory` (B, …) of whatever kind the generator computes with, (B, N, D) of a model, and the B
    `geometries` that took images to them; `image_index` (S,) is the canvas that each of S queries is about."""

    memory: Any
    geometries: Sequence[Geometry]
    image_index: np.ndarray

    def __len__(self) -> int:
        return len(self.image_index)

    def geometry(self, query: int) -> Geometry:
        """That of the canvas of a query."""
        return self.geometries[self.image_index[query]]

    def take(self, queries: Sequence[int]) -> Encoded:
        """Some of the queries, or some of them several times; the memory is not copied."""
        return replace(self, image_index=self.image_index[np.asarray(queries, dtype=int)])

    def chunk(self, part: slice) -> tuple[Any, np.ndarray]:
        """The memory (B', …) of the canvases in a part of the queries, and their index (S',) in it."""
        canvases, index = np.unique(self.image_index[part], return_inverse=True)
        return self.memory[canvases], index.reshape(-1)


# Told, while a task's prompts are answered, of the task, what is encoded, the prompts, the number of samples and the
# responses so far: those to the first prompts, prompt-major, the last of them unfinished.
Listener = Callable[[str, Encoded, Sequence[np.ndarray], int, list[Response]], None]


class SequenceGenerator(Protocol):
    """What a Predictor asks."""

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        """Each of `images` (H, W, 3) on the canvas of its geometry."""

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        """`num_samples` responses to each of `prompts` (P,), prompt k about query k of `encoded`, prompt-major."""


def longest_response(tokenizer: Tokenizer, model: ModelCFG, sampling: Sampling) -> int:
    """The most tokens of a response that the task, the decoder and the settings of sampling allow."""
    longest = min(tokenizer.max_response, model.max_tokens - tokenizer.prompt_length + 1)
    return min(longest, sampling.max_tokens or longest)


def chunks(count: int, size: int) -> Iterator[slice]:
    """Parts of `count` canvases or prompts, of `size` each."""
    return (slice(start, start + size) for start in range(0, count, size))


def scoring_all(tokenizer: Tokenizer) -> Grammar:
    """A tokenizer's grammar, which wants the probabilities of all tokens, not only of those that scores need."""
    grammar = tokenizer.grammar()
    grammar.scored_states = None
    return grammar


def draw_numbers(
    encoded: Encoded, prompts: Sequence[np.ndarray], part: slice, shape: tuple[int, int], seed: int
) -> np.ndarray:
    """Random numbers (P, *shape) for the P prompts of a part, which depend on the seed and on what is prompted, not on
    what is asked along with it."""
    geometries = [encoded.geometries[canvas] for canvas in encoded.image_index[part]]
    pairs = zip(geometries, prompts[part], strict=True)
    return np.stack([_draw_numbers(geometry, prompt, shape, seed) for geometry, prompt in pairs])


def _draw_numbers(geometry: Geometry, prompt: np.ndarray, shape: tuple[int, int], seed: int) -> np.ndarray:
    """A crop counts by its corners in whole pixels: the last bits of a box depend on what is computed beside it."""
    corners = np.rint(geometry.from_fractions(np.array([[0, 0], [1, 1]]))).astype(np.int64)
    asked = zlib.crc32(corners.tobytes() + prompt.tobytes())
    return np.random.default_rng([seed, asked]).random(shape, dtype=np.float32)
