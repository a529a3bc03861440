"""A weights file of a tiny model, and predictors with responses that a test defines."""

import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset.geometry import Geometry
from pix2seq.infer.encoded import Encoded, Listener
from pix2seq.infer.predictor import Predictor
from pix2seq.infer.responses import Response
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.sampling import Sampling
from pix2seq.models.weights import Weights, load_weights, save_weights
from pix2seq.tasks import TASKS

CLASS_NAMES = {1: "person", 3: "car", 18: "dog"}
TEXT = {"words": ["<unk>", "a", "person", "car", "beside"]}

Tokens = Mapping[str, Sequence[Sequence[int]]]


class FakeGenerator:
    """Gives every prompt of a task the same responses; several of them take turns as samples.

    `encoded` has the number of canvases of each call of `encode`.
    """

    def __init__(self, responses: Tokens, prob: float = 0.9) -> None:
        self.responses = {
            task: [Response(np.array(tokens, dtype=np.int64), np.full(len(tokens), prob)) for tokens in samples]
            for task, samples in responses.items()
        }
        self.encoded: list[int] = []
        self.listener: Listener | None = None

    def encode(self, images: Sequence[np.ndarray], geometries: Sequence[Geometry]) -> Encoded:
        self.encoded.append(len(geometries))
        return Encoded(torch.zeros(len(geometries), 1, 1), geometries, np.arange(len(geometries)))

    def generate(
        self, task: str, encoded: Encoded, prompts: Sequence[np.ndarray], sampling: Sampling, num_samples: int
    ) -> list[Response]:
        samples = self.responses[task]
        found = [samples[number % len(samples)] for _ in prompts for number in range(num_samples)]
        for length in (2, 5) if self.listener else ():
            some = [Response(response.tokens[:length], response.probs[:length]) for response in found]
            self.listener(task, encoded, prompts, num_samples, some)
        return found

    def scoring_all(self) -> "FakeGenerator":
        return self

    def with_listener(self, listener: Listener) -> "FakeGenerator":
        other = copy.copy(self)
        other.listener = listener
        return other


@pytest.fixture(scope="session")
def weights_path(tiny_model: Pix2Seq, tiny_model_cfg: CFG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, Weights(tiny_model, tiny_model_cfg, CLASS_NAMES, TEXT))
    return path


@pytest.fixture(scope="session")
def fake_generator() -> type[FakeGenerator]:
    return FakeGenerator


@pytest.fixture
def make_predictor(weights_path: Path, tiny_model_cfg: CFG) -> Callable[..., Predictor]:
    """Make a predictor with some settings changed, which may be the model's; with `responses`, token lists by task, it
    uses a FakeGenerator."""

    def make(responses: Tokens | None = None, prob: float = 0.9, **values) -> Predictor:
        weights, cfg = load_weights(weights_path), config.replace(tiny_model_cfg, **values)
        weights = Weights(weights.model, cfg, weights.class_names, weights.text)
        predictor = Predictor.from_weights(weights, TASKS, cfg.infer, torch.device("cpu"), cfg.seed)
        return predictor if responses is None else predictor.with_generator(FakeGenerator(responses, prob))

    return make
