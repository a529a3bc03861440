"""The script that downloads official checkpoints."""

import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from pix2seq.errors import UserError
from pix2seq.models.weights import load_weights
from pix2seq.runtime.paths import ROOT
from pix2seq.weights.download import download
from pix2seq.weights.official import MIRROR, table
from tests.server import Server

NAME, FOLDER = "coco-vit-b-640", "/coco_det_finetune/vit_b_640x640"


def run(server: Server | None = None, **flags: object) -> Path:
    """Run the script with these flags."""
    values = dict(
        name=NAME, list=False, dtype="fp32", text_model=None, convert=True, base_url=server.url if server else ""
    )
    return download(Namespace(**values | flags))


@pytest.fixture
def published(server: Server, checkpoint_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setenv(MIRROR, "http://nowhere")  # the flag wins, and leaves the variable as it is after the test
    server.files = {f"{FOLDER}/{path.name}": path for path in checkpoint_folder.iterdir()}
    server.files[f"{FOLDER}/checkpoint"] = b'model_checkpoint_path: "ckpt-402"\n'
    return server


def test_weights_are_fetched_once_for_each_precision(published: Server, cache: Path) -> None:
    assert run(published) == cache / f"{NAME}.safetensors"
    half = run(published, dtype="fp16")
    assert half == cache / f"{NAME}-fp16.safetensors"
    assert load_weights(half).cfg.model.image_size == 640
    published.files.clear()
    assert run(published, dtype="fp16") == half


def test_all_files_are_kept_without_conversion_and_converted_later(published: Server, cache: Path) -> None:
    folder = run(published, convert=False)
    assert folder == cache / NAME
    names = {"checkpoint", "ckpt-402.index", "ckpt-402.data-00000-of-00001"}
    assert {path.name for path in folder.iterdir()} == names
    published.files.clear()
    assert load_weights(run(published)).cfg.model.image_size == 640
    assert {path.name for path in folder.iterdir()} == names


def test_a_cut_download_of_all_files_does_not_hinder_the_weights(published: Server, cache: Path) -> None:
    published.cuts = [1_000, 0, 0, 0, 0]
    with pytest.raises(UserError, match="run the command again to resume"):
        run(published, convert=False)
    assert load_weights(run(published)).cfg.model.image_size == 640


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"name": "coco-vit-b"}, "no official checkpoint named 'coco-vit-b'; --list"),
        ({"base_url": "gs://pix2seq"}, "PIX2SEQ_BASE_URL expects .* got 'gs://pix2seq'"),
        ({"text_model": Path("own.model")}, "coco-vit-b-640 predicts no captions"),
        ({"text_model": Path("own.model"), "name": "multi-vit-b-640"}, "there is none at own.model"),
    ],
)
def test_wrong_flags_are_named(
    flags: dict[str, object], message: str, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(MIRROR, "http://nowhere")
    with pytest.raises(UserError, match=message):
        run(**flags)


def test_list_prints_the_table_without_heavy_imports() -> None:
    code = """
import runpy, sys
sys.argv = ["download.py", "--list"]
runpy.run_path("weights/download.py", run_name="__main__")
assert not {"torch", "numpy", "tqdm"} & set(sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == table() + "\n"
