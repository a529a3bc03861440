"""A full disk is one sentence at every kind of file; what was there stays whole, and nothing unfinished is left.

The disk is a small file system in memory, which only an administrator can mount; the tests are skipped elsewhere.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG, to_json
from pix2seq.dataset.cache import DecodedCache
from pix2seq.errors import UserError
from pix2seq.infer.run import run
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, load_weights, save_weights, write_metadata
from pix2seq.runtime.checkpoint import load_checkpoint, save_checkpoint
from pix2seq.runtime.files import PARTIAL, write_whole
from pix2seq.scenes.coco_layout import write_dataset
from pix2seq.scenes.kept import KeptScenes
from pix2seq.train import engine
from pix2seq.train.curves import Metrics, draw_curves
from pix2seq.train.preflight import failures

CPU = torch.device("cpu")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of eight megabytes."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(folder)]
    if sys.platform != "linux" or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("file systems cannot be mounted here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path, left_bytes: int = 0) -> None:
    """Take all room in a file system but for `left_bytes`."""
    with (folder / "filler").open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(1 << 14))
        except OSError:
            file.truncate(file.tell() - left_bytes)


@pytest.fixture
def weights(tiny_model: Pix2Seq, tiny_model_cfg: CFG) -> Weights:
    return Weights(tiny_model, tiny_model_cfg, {1: "cat"}, {"words": ["<unk>", "a"]})


def write_checkpoint(folder: Path, _: Weights) -> None:
    save_checkpoint(folder / "checkpoint.pt", {"a": torch.ones(100_000)})


def write_weights(folder: Path, weights: Weights) -> None:
    save_weights(folder / "last.safetensors", weights)


def write_description(folder: Path, weights: Weights) -> None:
    """Decoding settings that `fit_decoding.py` found."""
    write_metadata(folder / "last.safetensors", {"decoding": "{}"})


def write_settings(folder: Path, weights: Weights) -> None:
    with failures(weights.cfg):
        write_whole(folder / "cfg.json", to_json(weights.cfg) * 20)


def write_metrics(folder: Path, weights: Weights) -> None:
    with failures(weights.cfg):
        metrics = Metrics(folder, ["loss/a"], 0)
        for step in range(20_000):
            metrics.add(step, {"loss/a": 0.1})


def write_curves(folder: Path, weights: Weights) -> None:
    (folder.parent / "metrics.csv").write_text("step,loss/a\n1,0.5\n2,0.4\n", encoding="utf-8")
    with failures(weights.cfg):
        draw_curves(folder.parent / "metrics.csv", folder / "curves.png")


def write_results(folder: Path, weights: Weights) -> None:
    Image.new("RGB", (640, 480)).save(folder.parent / "image.png")
    save_weights(folder.parent / "w.safetensors", weights)
    named = dict(image=(str(folder.parent / "image.png"),), weights=str(folder.parent / "w.safetensors"))
    run(config.replace(weights.cfg, **named, output_dir=str(folder), num_samples=1, score_threshold=0.0, max_objects=3))


def write_scenes(folder: Path, _: Weights) -> None:
    write_dataset(folder / "scenes", 2, 1, seed=0)


def write_a_kept_scene(folder: Path, _: Weights) -> None:
    KeptScenes(folder, "train2017", 0).draw(0)


@pytest.mark.parametrize(
    "write",
    [
        *(write_checkpoint, write_weights, write_settings, write_metrics, write_curves, write_results, write_scenes),
        *(write_a_kept_scene, write_description),
    ],
    ids=lambda function: function.__name__.removeprefix("write_"),
)
@pytest.mark.parametrize("left_bytes", [0, 1 << 14], ids=["full", "almost"])
def test_a_full_disk_is_a_sentence_and_leaves_nothing_unfinished(
    disk: Path, weights: Weights, write: Callable[[Path, Weights], None], left_bytes: int
):
    if write is write_description:
        save_weights(disk / "last.safetensors", weights)
    before = {path.name: path.read_bytes() for path in disk.iterdir()}
    fill(disk, left_bytes)
    with pytest.raises(UserError, match=r"No space left|full") as error:
        write(disk, weights)
    assert "\n" not in str(error.value)
    assert not [path for path in disk.rglob("*") if PARTIAL in path.name]
    assert {name: (disk / name).read_bytes() for name in before} == before


def test_a_cache_without_room_decodes_again(disk: Path):
    fill(disk)
    cache = DecodedCache([disk / "a.jpg"], [(900, 900)], [1], 10**9, folder=disk)
    cache.put(0, 1, np.ones((900, 900, 3), np.uint8))
    assert cache.get(0, 1) is None


@pytest.mark.slow
def test_a_run_whose_disk_fills_keeps_its_last_checkpoint(
    disk: Path, tiny_cfg: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """With room enough at the start, which is checked, until another program takes it."""
    subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
    cfg = config.replace(tiny_cfg, run_dir=str(disk / "run"), batch_size=1, epochs=3, save_steps=3)
    learning_rate = engine.learning_rate

    def rate(step: int, *rest: object) -> float:
        if step == 8:
            fill(disk)
        return learning_rate(step, *rest)

    monkeypatch.setattr(engine, "learning_rate", rate)
    with pytest.raises(UserError, match="No space left on device"):
        engine.train(cfg)
    assert load_checkpoint(disk / "run" / "checkpoint.pt", CPU)["step"] == 6
    assert not [path for path in (disk / "run").rglob("*") if PARTIAL in path.name]
    (disk / "filler").unlink()
    monkeypatch.setattr(engine, "learning_rate", learning_rate)
    engine.train(config.replace(cfg, resume=True))
    assert load_weights(disk / "run" / "last.safetensors").step == 36
