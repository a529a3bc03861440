"""The evaluation scripts: what they write, watching a run, several processes, evaluation during training."""

import dataclasses
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator, ImageEvent

from pix2seq import config
from pix2seq.command_line import EVALUATION, command_line, parse_args
from pix2seq.config import CFG
from pix2seq.errors import UserError
from pix2seq.evaluate import evaluate_detection, evaluate_multi_task, evaluation, report, run
from pix2seq.models.weights import Weights, load_weights, save_weights
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import TASKS
from pix2seq.train.engine import train


@pytest.fixture
def weights_path(random_weights: Weights, tmp_path: Path) -> Path:
    save_weights(tmp_path / "tiny.safetensors", random_weights)
    return tmp_path / "tiny.safetensors"


@pytest.fixture
def flags(weights_path: Path, scenes_root: Path, tmp_path: Path) -> list[str]:
    named = {"weights": weights_path, "data-root": scenes_root, "output-dir": tmp_path / "out", "device": "cpu"}
    named |= {"num-samples": 2, "workers": 0, "score-threshold": 0, "eval-batch-size": 2}
    return [str(part) for name, value in named.items() for part in (f"--{name}", value)]


def test_the_script_writes_metrics_results_and_grids(flags: list[str], tmp_path: Path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["evaluate_multi_task.py", *flags])
    command_line(evaluate_multi_task.run, evaluate_multi_task.__doc__, EVALUATION, output_dir="results")
    out = tmp_path / "out"
    report = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert (report["weights"], report["images"]) == ("tiny.safetensors", 6)
    assert set(report["metrics"]) == set(report["tokens"]) == set(TASKS)
    assert "person" in report["per_class"]["detection"]
    for task in TASKS:
        assert isinstance(json.loads((out / f"{task}_results.json").read_text(encoding="utf-8")), list)
        grid = cv2.imread(str(out / f"{task}_grid.png"))
        assert grid is not None and grid.std() > 20, f"{task}'s grid is blank"
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("BLEU-4", "VOC AP50", "token accuracy, class", "valid without grammar"))
    assert scalars(out / "tensorboard", 0)["eval/detection/AP"] == pytest.approx(report["metrics"]["detection"]["AP"])
    shown = pictures(out / "tensorboard")
    assert set(shown) == {f"eval/{task}" for task in TASKS}
    ((step, image),) = shown["eval/detection"]
    assert step == 0 and np.abs(image - cv2.imread(str(out / "detection_grid.png")).astype(float)).mean() < 5


def scalars(folder: Path, step: int) -> dict[str, float]:
    events = EventAccumulator(str(folder))
    events.Reload()
    values = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    return {name: found[0].value for name, all_ in values.items() if (found := [e for e in all_ if e.step == step])}


def pictures(folder: Path) -> dict[str, list[tuple[int, np.ndarray]]]:
    """The step and the pixels of each image in TensorBoard's events, by name."""
    events = EventAccumulator(str(folder), {"images": 0})
    events.Reload()
    return {name: [(shown.step, decoded(shown)) for shown in events.Images(name)] for name in events.Tags()["images"]}


def decoded(shown: ImageEvent) -> np.ndarray:
    """The pixels, whose size is the one that the event says."""
    image = cv2.imdecode(np.frombuffer(shown.encoded_image_string, np.uint8), cv2.IMREAD_COLOR)
    assert image.shape[:2] == (shown.height, shown.width)
    return image


def test_a_script_of_one_task_evaluates_only_that_task(flags: list[str], tmp_path: Path, monkeypatch):
    start = flags.index("--num-samples")  # of masks
    monkeypatch.setattr(sys, "argv", ["evaluate_detection.py", *flags[:start], *flags[start + 2 :]])
    command_line(evaluate_detection.run, evaluate_detection.__doc__, EVALUATION, only="detection", output_dir="results")
    report = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert set(report["metrics"]) == {"detection"}


@pytest.mark.parametrize("task", TASKS)
def test_every_task_has_a_script(task: str, monkeypatch):
    asked = []
    monkeypatch.setattr(run, "evaluate_weights", lambda cfg: asked.append((cfg.tasks, cfg.infer.output_dir)))
    monkeypatch.setattr(sys, "argv", ["script", "--device", "cpu"])
    runpy.run_path(str(ROOT / "evaluate" / f"evaluate_{task}.py"), run_name="__main__")
    assert asked == [((task,), "results")]


def test_watching_evaluates_each_new_weights_file(flags: list[str], weights_path: Path, tmp_path: Path, monkeypatch):
    folder = tmp_path / "watched"
    folder.mkdir()
    save_weights(folder / "last.safetensors", dataclasses.replace(load_weights(weights_path), step=50))
    (folder / "metrics.csv").write_text("step,lr\n50,0.1\n90,0.1\n", encoding="utf-8")  # the training has gone on
    cfg = parse_args([*flags, "--watch", str(folder), "--watch-minutes", "1e-6", "--task", "captioning"])

    def retrain_once(seconds: float) -> None:
        raise AssertionError("there was nothing new, and the time was over")

    monkeypatch.setattr(run.time, "sleep", retrain_once)
    run.run(cfg)
    assert [path.name for path in (folder / "evaluation").iterdir()] == ["step_0000050"]
    assert "eval/captioning/BLEU-4" in scalars(folder / "tensorboard", 50)


def test_watching_waits_for_weights_and_notices_changes(monkeypatch, tmp_path: Path):
    seen, naps = [], []
    monkeypatch.setattr(
        run, "evaluate_weights", lambda cfg, folder: seen.append(Path(cfg.infer.weights).read_text(encoding="utf-8"))
    )

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 4:
            raise KeyboardInterrupt
        if len(naps) % 2:
            (tmp_path / "last.safetensors").write_text(str(len(naps)), encoding="utf-8")
            os.utime(tmp_path / "last.safetensors", (len(naps), len(naps)))

    monkeypatch.setattr(run.time, "sleep", nap)
    with pytest.raises(KeyboardInterrupt):
        run.watch(config.replace(CFG(), watch=str(tmp_path)))
    assert seen == ["1", "3"]


def test_a_folder_to_watch_must_exist(tmp_path: Path):
    with pytest.raises(UserError, match="--watch"):
        run.run(config.replace(CFG(), watch=str(tmp_path / "nowhere"), device="cpu"))


def test_training_shows_the_same_examples_after_each_epoch(tiny_cfg: CFG):
    """Ground truth beside prediction: the images' side, which no training changes, stays the same."""
    cfg = config.replace(tiny_cfg, epochs=2, steps_per_epoch=1, example_images=1, max_objects=3, max_words=5, lr=1e-2)
    train(config.replace(cfg, max_points=6))
    shown = pictures(Path(cfg.train.run_dir) / "tensorboard")
    assert set(shown) == {f"val/{task}" for task in TASKS}
    for (step, before), (later, after) in shown.values():
        truth = before.shape[1] // 2 - 10
        assert (step, later) == (1, 2) and before.std() > 20
        np.testing.assert_array_equal(before[:, :truth], after[:, :truth])


def test_training_evaluates_every_so_many_epochs(tiny_cfg: CFG):
    cfg = config.replace(tiny_cfg, epochs=3, eval_every=2, steps_per_epoch=1, max_images=2, max_objects=3)
    train(config.replace(cfg, task="detection,keypoint"))
    folder = Path(cfg.train.run_dir)
    assert [path.name for path in (folder / "evaluation").iterdir()] == ["step_0000002"]
    assert (folder / "evaluation" / "step_0000002" / "detection_grid.png").is_file()
    found = scalars(folder / "tensorboard", 2)
    assert {"eval/detection/AP", "eval/keypoint/perplexity", "val_accuracy/keypoint/y"} <= found.keys()
    header, *rows = [line.split(",") for line in (folder / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    accuracies = [row[header.index("val_accuracy/detection/class")] for row in rows]
    assert all(0 <= float(value) <= 1 for value in accuracies)


def test_a_failed_evaluation_does_not_end_training(tiny_cfg: CFG, capsys):
    folder = Path(tiny_cfg.train.run_dir)
    folder.mkdir()
    (folder / "evaluation").write_text("a file, where a folder is needed", encoding="utf-8")
    train(config.replace(tiny_cfg, task="detection", epochs=2, eval_every=1, steps_per_epoch=1, max_objects=3))
    printed = capsys.readouterr().out
    assert printed.count("the evaluation failed, the training goes on") == 2
    assert load_weights(folder / "last.safetensors").step == 2


def test_a_folder_that_cannot_be_written_is_reported_before_predicting(flags: list[str], tmp_path: Path, monkeypatch):
    (tmp_path / "out").write_text("a file, where a folder is needed", encoding="utf-8")
    monkeypatch.setattr(evaluation, "ask", lambda *_: pytest.fail("the model was asked first"))
    with pytest.raises(UserError, match="--output-dir"):
        run.evaluate_weights(parse_args(flags))


def test_metrics_are_printed_even_if_they_cannot_be_written(flags: list[str], tmp_path: Path, monkeypatch, capsys):
    def full(*_) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(report, "write_report", full)
    with pytest.raises(UserError, match="No space left"):
        run.evaluate_weights(parse_args([*flags, "--task", "detection"]))
    assert "AP50" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_two_processes_give_the_metrics_of_one(
    flags: list[str], damaged_root: Path, tmp_path: Path, torchrun: list[str]
):
    script = ROOT / "tests" / "evaluate" / "two_processes.py"
    contents = []
    for name, command in (("one", [sys.executable]), ("two", torchrun)):
        out = tmp_path / name
        done = subprocess.run(
            [*command, script, *flags, "--data-root", damaged_root, "--output-dir", out],
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("wrote ") == done.stdout.count("1 × image that cannot be read completely") == 1
        contents.append({path.name: path.read_bytes() for path in out.iterdir() if path.is_file()})
    assert len(contents[0]) == 9 and contents[0].keys() == contents[1].keys()
    for name, content in contents[0].items():
        if name == "metrics.json":  # its sums are added in another order
            assert_nearly_equal(json.loads(content), json.loads(contents[1][name]))
        else:
            assert content == contents[1][name], name


def assert_nearly_equal(one: Any, other: Any) -> None:
    """Assert that the contents of two JSON files are equal, numbers up to rounding."""
    if isinstance(one, dict):
        assert one.keys() == other.keys()
        for key in one:
            assert_nearly_equal(one[key], other[key])
    elif isinstance(one, list):
        assert len(one) == len(other)
        for parts in zip(one, other, strict=True):
            assert_nearly_equal(*parts)
    else:
        assert one == (pytest.approx(other, rel=1e-5) if isinstance(other, float) else other)
