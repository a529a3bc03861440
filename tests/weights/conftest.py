"""Official checkpoints, each converted once."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from pix2seq.models.weights import Weights, load_weights
from pix2seq.weights import official
from pix2seq.weights.conversion import convert
from pix2seq.weights.official_config import read_config
from tests.conftest import reference_models
from tests.server import Server
from tests.weights.bundle_writer import write_checkpoint
from tests.weights.official_vit import Sizes, vit_arrays


@pytest.fixture(scope="session")
def tiny_arrays() -> dict[str, np.ndarray]:
    """Random numbers for the variables of a tiny official ViT, by path."""
    return vit_arrays(Sizes())


@pytest.fixture(scope="session")
def checkpoint_folder(tiny_arrays: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of them, with an optimizer's state."""
    folder = tmp_path_factory.mktemp("official") / "vit_640x640"
    folder.mkdir()
    moments = {f"optimizer/_variables/{place}": array for place, array in enumerate(tiny_arrays.values())}
    write_checkpoint(folder / "ckpt-402", tiny_arrays, moments)
    return folder


@pytest.fixture(scope="session", params=reference_models())
def reference_model(request: pytest.FixtureRequest, reference_path: Callable[[str], Path]) -> Path:
    """The folder of an official model with its numbers."""
    return reference_path(f"models/{request.param}")


@pytest.fixture(scope="session")
def converted(reference_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Weights:
    """That model's checkpoint, converted, written and loaded again."""
    path, config = tmp_path_factory.mktemp("weights") / "official.safetensors", reference_model / "config.json"
    convert(reference_model / "ckpt", path, config, image_size=max(read_config(config).canvas))  # canvases are square
    return load_weights(path)


@pytest.fixture
def server(server: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    """That of all tests, as the mirror of the official files."""
    monkeypatch.setenv(official.MIRROR, server.url)
    return server


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of official weights in an empty cache."""
    monkeypatch.setenv("PIX2SEQ_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "official"
