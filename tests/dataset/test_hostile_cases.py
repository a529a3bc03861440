"""Hostile annotations that were tried: refused in a sentence, or counted, in little time and memory."""

import json
import os
import resource
import time
from pathlib import Path

import pytest
from PIL import Image

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.dataset import check
from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT

CASES = ROOT.parent / "shared" / "cases_hostile"
FOUND = sorted(path.parent.parent.name for path in CASES.glob("*/own/train.json"))


def look_at(root: Path, tasks: str, folder: Path) -> str:
    """What `dataset/check.py` says about a dataset: its refusal, or nothing."""
    val = "val" if (root / "val.json").exists() else "train"
    cfg = config.replace(CFG(), data_root=str(root), train_split="train", val_split=val, task=tasks, workers=0)
    try:
        check.main(config.replace(cfg, image_size=64, output_dir=str(folder)))
    except UserError as error:
        return str(error)
    return ""


@pytest.mark.skipif(not FOUND, reason="the cases of ../shared/cases_hostile are not here")
@pytest.mark.parametrize("case", FOUND or ["none"])
def test_a_hostile_dataset_is_refused_or_its_faults_are_counted(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture
):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    refusal = look_at(CASES / case / "own", "detection,segmentation", tmp_path)
    assert "\n" not in refusal and "\x1b" not in capsys.readouterr().out
    assert time.process_time() - start < 20
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 1e6  # kB


@pytest.mark.parametrize("count", [20_000, pytest.param(1_000_000, marks=pytest.mark.slow)])
def test_many_objects_on_one_image_take_time_in_proportion(count: int, tmp_path: Path):
    root = tmp_path / "own"
    (root / "images").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(root / "images" / "a.jpg")
    boxes = [{"id": i, "image_id": 1, "category_id": 1, "bbox": [i % 50, i % 30, 9, 9]} for i in range(count)]
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}], "annotations": boxes}
    (root / "train.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "a"}]}), encoding="utf-8")
    start = time.process_time()
    look_at(root, "detection,segmentation", tmp_path / "out")
    seconds = time.process_time() - start
    print(f"{count} objects on one image: {seconds:.1f} s")
    assert seconds < 10 + count / 5_000


def dataset(folder: Path, **values: object) -> Path:
    """A data root with two objects on an image, of which the first has these values."""
    (folder / "images").mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(folder / "images" / "a.jpg")
    usual = {"image_id": 1, "category_id": 1, "bbox": [5, 5, 20, 20], "segmentation": [[5, 5, 25, 5, 25, 25]]}
    objects = [{"id": 1} | usual | values, {"id": 2} | usual]
    content = {"images": [{"id": 1, "file_name": "a.jpg", "width": 64, "height": 48}], "annotations": objects}
    (folder / "train.json").write_text(json.dumps(content | {"categories": [{"id": 1, "name": "a"}]}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    "segmentation",
    [
        *(
            float("nan"),
            float("inf"),
            "NaN",
            "[" * 9999,
            [[float("nan")] * 6],
            {"size": [48, 64], "counts": "o" * 10**6},
        ),
        *({"size": [60_000, 70_000], "counts": [0, 4_200_000_000]}, {"size": [48, 64], "counts": [-5, 3077]}),
        *({"size": [2**31, 2**31], "counts": "0"}, {"size": [48, 64], "counts": [0] * 10**6}),
    ],
    ids=lambda value: str(value)[:30],
)
@pytest.mark.parametrize("crowd", [0, 1])
def test_an_odd_segmentation_is_counted_in_little_time_and_memory(
    tmp_path: Path, segmentation: object, crowd: int, capsys: pytest.CaptureFixture
):
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    assert not look_at(dataset(tmp_path / "own", segmentation=segmentation, iscrowd=crowd), "detection", tmp_path)
    assert "1 × " in capsys.readouterr().out
    assert time.process_time() - start < 10
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 3e5  # kB


def test_names_are_plain_before_they_reach_a_terminal_or_a_weights_file(tmp_path: Path, capsys: pytest.CaptureFixture):
    root = dataset(tmp_path / "own", keypoints=[9, 9, 2, 8, 8, 2])
    path = root / "train.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    odd = {"id": 1, "name": "c\x1b[31mat\u202e", "keypoints": ["no\x9bse", "t\x1bail"], "skeleton": [[1, 2]]}
    path.write_text(json.dumps(content | {"categories": [odd]}), encoding="utf-8")
    assert not look_at(root, "detection,keypoint", tmp_path)
    printed = capsys.readouterr().out
    assert "c[31mat" in printed and "1 × category whose name has control characters" in printed
    assert all(line.isprintable() for line in printed.splitlines())


def test_a_caption_as_long_as_a_book_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture):
    root = dataset(tmp_path / "own", caption="a word " * 300_000)
    refusal = look_at(root, "captioning", tmp_path)
    assert "1 × caption of more than 10,000 characters, left out" in refusal + capsys.readouterr().out


@pytest.mark.parametrize("kind", ["fifo", "device", "folder"])
def test_annotations_are_a_regular_file(tmp_path: Path, kind: str):
    root = dataset(tmp_path / "own")
    path = root / "odd.json"
    {"fifo": os.mkfifo, "device": lambda p: p.symlink_to("/dev/zero"), "folder": Path.mkdir}[kind](path)
    cfg = config.replace(CFG(), data_root=str(root), train_json=str(path), val_json=str(path), task="detection")
    with pytest.raises(UserError, match=r"odd\.json cannot be read"):
        check.main(config.replace(cfg, output_dir=str(tmp_path)))
