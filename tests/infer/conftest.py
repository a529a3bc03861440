"""A weights file of a tiny model, and a way to put words into its mouth."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.infer.predictor import Answer, Predictor
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, load_weights, save_weights

CLASS_NAMES = {1: "person", 3: "car", 18: "dog"}
TEXT = {"words": ["<unk>", "a", "person", "car", "beside"]}


@pytest.fixture(scope="session")
def weights_path(tiny_model: Pix2Seq, tiny_model_cfg: CFG, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "tiny.safetensors"
    save_weights(path, Weights(tiny_model, tiny_model_cfg, CLASS_NAMES, TEXT))
    return path


@pytest.fixture
def make_predictor(weights_path: Path, tiny_model_cfg: CFG) -> Callable[..., Predictor]:
    """A predictor with some settings changed."""

    def make(**values) -> Predictor:
        cfg = config.replace(tiny_model_cfg, **values)
        return Predictor(load_weights(weights_path), cfg, torch.device("cpu"))

    return make


@pytest.fixture
def answer_with(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let every prompt of a task be answered with the same tokens; several answers take turns as samples."""
    said: dict[str, list[Answer]] = {}

    def answers(self, task, encoded, prompts, sampling=None, num_samples=1) -> list[Answer]:
        return [said[task][sample % len(said[task])] for _ in prompts for sample in range(num_samples)]

    def teach(task: str, *samples: Sequence[int], prob: float = 0.9) -> None:
        said[task] = [Answer(np.array(tokens, dtype=np.int64), np.full(len(tokens), prob)) for tokens in samples]

    monkeypatch.setattr(Predictor, "_answers", answers)
    return teach
