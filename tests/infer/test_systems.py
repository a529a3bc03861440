"""Inference and the check of a dataset on other systems: without POSIX modules, with other encodings."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pix2seq.config import CFG
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.models.weights import Weights, save_weights
from pix2seq.runtime.paths import ROOT

INFER = ROOT / "infer" / "infer_single_image_multi_task.py"
CHECK = ROOT / "dataset" / "check.py"
NAMES = {1: "pérson → ×", 3: "车"}
WORDS = ["<unk>", "café", "…", "犬"]
# Not even names of files are UTF-8: Python passes on their bytes.
PLAIN = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def run(command: list[str | Path], **environment: str) -> str:
    """The output of a command, which must succeed."""
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode(errors="replace")[-2000:]
    return done.stdout.decode(environment.get("PYTHONIOENCODING", "utf-8"))


@pytest.fixture
def flags(tmp_path: Path, tiny_model: Pix2Seq, tiny_model_cfg: CFG) -> list[str | Path]:
    """Flags for an image and for weights with non-ASCII classes and words; a random model has low scores."""
    Image.new("RGB", (60, 40), "gray").save(tmp_path / "naïve 图片.png")
    save_weights(tmp_path / "wéights.safetensors", Weights(tiny_model, tiny_model_cfg, NAMES, {"words": WORDS}))
    files = ["--image", tmp_path / "naïve 图片.png", "--weights", tmp_path / "wéights.safetensors"]
    return [*files, "--output-dir", tmp_path / "öut", "--device", "cpu", "--num-samples", "1", "--score-threshold", "0"]


def test_inference_needs_no_module_of_posix(flags: list[str | Path], tmp_path: Path):
    program = (
        "import runpy, sys\n"
        "for name in ('fcntl', 'resource', 'pwd', 'grp', 'termios'):\n"
        "    sys.modules[name] = None\n"
        "sys.argv = sys.argv[1:]\n"
        "runpy.run_path(sys.argv[0], run_name='__main__')\n"
    )
    run([sys.executable, "-c", program, INFER, *flags])
    assert (tmp_path / "öut" / "result.json").is_file()


@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
def test_inference_prints_to_any_terminal(flags: list[str | Path], tmp_path: Path, encoding: str):
    printed = run([sys.executable, INFER, *flags], PYTHONIOENCODING=encoding, **PLAIN)
    assert "p?rson ? ?" in printed or "pérson ? ×" in printed
    assert "caption:" in printed
    results = json.loads((tmp_path / "öut" / "result.json").read_text(encoding="utf-8"))
    assert set(results[-1]["caption"]) & set("".join(WORDS))


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_the_check_of_a_dataset_prints_to_any_terminal(tmp_path: Path, encoding: str):
    names = ["un.png", "été.png"]
    for name in names:
        Image.new("RGB", (64, 48)).save(tmp_path / name)
    images = [{"id": number, "file_name": name, "width": 64, "height": 48} for number, name in enumerate(names)]
    boxes = [
        {"id": number, "image_id": number % 2, "category_id": 1, "bbox": [2 * number, 3, 9, 9 * (number > 0)]}
        for number in range(9)
    ]
    content = {"images": images, "annotations": boxes, "categories": [{"id": 1, "name": "tasse à café"}]}
    (tmp_path / "train.json").write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    flags = ["--data-root", tmp_path, "--train-split", "train", "--val-split", "train", "--task", "detection"]
    flags += ["--output-dir", tmp_path / "öut", "--image-size", "64", "--workers", "0"]
    printed = run([sys.executable, CHECK, *flags], PYTHONIOENCODING=encoding)
    assert "empty box" in printed and ("×" in printed or encoding == "ascii")
    assert ("█" if encoding == "utf-8" else "####") in printed
