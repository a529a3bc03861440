"""Official checkpoints, each converted once."""

import os
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from pix2seq.models.weights import Weights, load_weights
from pix2seq.weights.conversion import convert

MODELS = ("vit_tiny", "resnet50_tiny", "resnet50_c4_tiny")


@pytest.fixture(scope="session")
def tensorflow() -> ModuleType:
    """The package that reads checkpoints; skips the test where it is not installed."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="session")
def checkpoint_folder(tensorflow: ModuleType, reference_path: Callable[[str], Path]) -> Path:
    """A small official checkpoint, of a ViT."""
    return reference_path("models/vit_tiny/ckpt")


@pytest.fixture(scope="session", params=MODELS)
def reference_model(request: pytest.FixtureRequest, reference_path: Callable[[str], Path]) -> Path:
    """The folder of an official model with its numbers."""
    return reference_path(f"models/{request.param}")


@pytest.fixture(scope="session")
def converted(tensorflow: ModuleType, reference_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """That model's checkpoint, converted, written and loaded again."""
    path = tmp_path_factory.mktemp("weights") / "official.safetensors"
    convert(reference_model / "ckpt", path)
    return load_weights(path)
