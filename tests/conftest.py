"""Settings, a model and images small enough for a test."""

import contextlib
import json
import os
import re
import socket
import sys

os.environ.setdefault("PIX2SEQ_TEST_THREADS", "1")  # tiny models lose time to threads
os.environ["OMP_NUM_THREADS"] = os.environ["PIX2SEQ_TEST_THREADS"]  # before torch; inherited by processes of tests

from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import settings
from sentencepiece import SentencePieceTrainer

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime import transfer
from pix2seq.runtime.device import computes_fp16
from pix2seq.runtime.paths import ROOT
from pix2seq.scenes.coco_layout import write_dataset
from tests.rounding import Rounding
from tests.server import Server, running

cv2.setNumThreads(0)
torch.set_num_threads(int(os.environ["PIX2SEQ_TEST_THREADS"]))
settings.register_profile("tests", deadline=None, max_examples=60)
settings.load_profile("tests")

FP16 = pytest.param("fp16", marks=pytest.mark.skipif(not computes_fp16(torch.device("cpu")), reason="no FBGEMM here"))

TINY = dict(
    image_size=64,
    backbone="resnet18",
    backbone_kwargs='{"channels": [8, 16, 24, 32]}',
    backbone_stage=3,
    encoder_width=32,
    encoder_layers=1,
    encoder_heads=2,
    decoder_width=32,
    decoder_layers=2,
    decoder_heads=2,
    mlp_ratio=2,
    vocab_size=3200,
    max_tokens=160,
    workers=0,
    max_objects=20,
    max_points=24,
    batch_size=4,
    epochs=1,
    pretrained=False,
    lr=2e-3,
    warmup_steps=2,
    log_steps=50,
    precision="fp32",
    eval_images=4,
    device="cpu",
)


CAPTIONS = [
    "a dog runs on the grass",
    "two cats sleep on a red sofa",
    "a man rides a horse near the beach",
    "the café is closed today",
    "people walk in the park with a dog",
]


@pytest.fixture(scope="session", autouse=True)
def rounding() -> Iterator[None]:
    """With PIX2SEQ_TEST_ROUNDING, all tests run with the rounding errors of another processor."""
    units = float(os.environ.get("PIX2SEQ_TEST_ROUNDING", 0))
    with Rounding(units) if units else contextlib.nullcontext():
        yield


@pytest.fixture(scope="session")
def scenes_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A synthetic dataset of 12 training and 6 validation images."""
    root = tmp_path_factory.mktemp("data") / "scenes"
    write_dataset(root, num_train=12, num_val=6, seed=1)
    return root


@pytest.fixture(scope="session")
def text_model_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SentencePiece model whose special pieces have the ids of the official one: padding 0, end 1, unknown 2."""
    path = tmp_path_factory.mktemp("text") / "captions.model"
    with path.open("wb") as file:
        SentencePieceTrainer.train(
            sentence_iterator=iter(CAPTIONS),
            model_writer=file,
            vocab_size=60,
            hard_vocab_limit=False,
            pad_id=0,
            eos_id=1,
            unk_id=2,
            bos_id=-1,
            minloglevel=2,
        )
    return path


@pytest.fixture(scope="session")
def tiny_model_cfg() -> CFG:
    """Settings of a tiny model, without a dataset."""
    return config.replace(CFG(), **TINY)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """A server on this machine; no pauses between tries, no proxy on the way."""
    monkeypatch.setattr(transfer, "PAUSES_S", (0, 0, 0))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with running() as server:
        yield server


@pytest.fixture
def closed_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """An address where nobody answers."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{closed.getsockname()[1]}"


@pytest.fixture
def tiny_cfg(tiny_model_cfg: CFG, scenes_root: Path, tmp_path: Path) -> CFG:
    """Settings of a tiny run on the synthetic dataset, with its own folder."""
    quick = {"example_images": 0}  # an untrained model's sequences are long
    return config.replace(tiny_model_cfg, data_root=str(scenes_root), run_dir=str(tmp_path / "run"), **quick)


@pytest.fixture(scope="session")
def tiny_model(tiny_model_cfg: CFG) -> Pix2Seq:
    """A random model in evaluation mode, with weights large enough that its predictions depend on its input."""
    torch.manual_seed(0)
    model = Pix2Seq(tiny_model_cfg.model).eval()
    with torch.no_grad():
        model.decoder.embedding.weight.mul_(10)
        model.decoder.positions.mul_(10)
    return model


def reference_folder() -> Path:
    """The folder of numbers of the official code: `$PIX2SEQ_REFERENCE`, or one beside this checkout."""
    return Path(os.environ.get("PIX2SEQ_REFERENCE") or ROOT.parent / "shared" / "reference")


def reference_models() -> list[str]:
    """The names of the official models there; one name, with which tests are skipped, where there are none."""
    return sorted(path.parent.name for path in reference_folder().glob("models/*/ckpt")) or ["none"]


def reference_cases(file: str, pattern: str) -> list:
    """Parameters of a test: what the group in `pattern` matches in the names of a file's arrays.

    Which cases there are follows from the data so; one that is skipped where there are none.
    """
    path = reference_folder() / file
    names = np.load(path).files if path.is_file() else []
    found = dict.fromkeys(match[1] for name in names if (match := re.fullmatch(pattern, name)))
    return list(found) or [pytest.param("", marks=pytest.mark.skip(reason=f"{path} has no such numbers"))]


@pytest.fixture(scope="session")
def reference_path() -> Callable[[str], Path]:
    """Find a file or folder of numbers of the official TensorFlow code by name; skip the test if it is missing."""

    def find(name: str) -> Path:
        path = reference_folder() / name
        if not path.exists():
            pytest.skip(f"the reference numbers {path} are not here")
        return path

    return find


@pytest.fixture(scope="session")
def tensorflow() -> ModuleType:
    """TensorFlow, which nothing but comparisons needs; skips the test where it is not installed."""
    os.environ |= {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}
    return pytest.importorskip("tensorflow")


@pytest.fixture(scope="session")
def torchrun() -> list[str]:
    """The command that runs a script in two processes."""
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]


@pytest.fixture(scope="session")
def coco_people() -> Path:
    """The folder of real photographs in COCO 2017's layout; skips the test if it is missing."""
    folder = ROOT.parent / "shared" / "data" / "coco_people"
    if not folder.is_dir():
        pytest.skip(f"the photographs {folder} are not here")
    return folder


@pytest.fixture(scope="session")
def reference(reference_path: Callable[[str], Path]) -> Callable[[str], dict[str, np.ndarray]]:
    """Load arrays of the reference tasks by file name."""
    return lambda name: dict(np.load(reference_path(f"tasks/{name}")))


@pytest.fixture(scope="session")
def reference_json(reference_path: Callable[[str], Path]) -> Callable[[str], Any]:
    """Load a JSON file of the reference numbers by name."""
    return lambda name: json.loads(reference_path(name).read_text(encoding="utf-8"))
