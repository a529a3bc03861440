"""The scripts from the command line with --device cuda."""

import csv
import json
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pix2seq import config
from pix2seq.config import CFG
from pix2seq.runtime.paths import ROOT
from pix2seq.tasks import TASKS
from tests.train.test_engine import as_flags

SCRIPTS = sorted((ROOT / "infer").glob("infer_single_image_*.py"))
QUICK = ("--detection-votes", 2, "--num-samples", 2, "--keypoint-votes", 2, "--caption-votes", 2, "--views", 1)


def run(*words: object) -> subprocess.CompletedProcess:
    """A program in a process of its own."""
    return subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.fixture
def run_cfg(gpu: torch.device, tiny_model_cfg: CFG, scenes_root: Path, tmp_path: Path) -> CFG:
    """Two epochs of all tasks, with loading processes, evaluated at the end."""
    named = dict(data_root=str(scenes_root), run_dir=str(tmp_path / "run"), device="cuda", precision="auto")
    return config.replace(tiny_model_cfg, **named, epochs=2, workers=2, eval_every=2, log_steps=2, num_samples=1)


def rows_of(cfg: CFG) -> list[dict[str, str]]:
    with (Path(cfg.train.run_dir) / "metrics.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_a_run_trains_and_goes_on(run_cfg: CFG):
    script = ROOT / "train" / "train_multi_task.py"
    first = run(script, *as_flags(run_cfg))
    assert first.returncode == 0, first.stderr
    assert "on cuda:0;" in first.stdout and "evaluation failed" not in first.stdout, first.stdout
    second = run(script, "--resume", run_cfg.train.run_dir, "--epochs", 3)
    assert second.returncode == 0, second.stderr
    assert "not exact" not in second.stdout
    validated = [row for row in rows_of(run_cfg) if row["val/detection"]]
    assert [int(row["step"]) for row in validated] == [3, 6, 9]
    assert all(float(row[f"val/{task}"]) > 0 for row in validated for task in TASKS)


@pytest.mark.parametrize("engine", ["ddp", "fsdp"])
def test_a_run_of_torchrun(run_cfg: CFG, engine: str):
    words = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 1, ROOT / "train" / "train_multi_task.py"
    cfg = config.replace(run_cfg, epochs=1, eval_every=0, parallel=engine)
    done = run(*words, *as_flags(cfg))
    assert done.returncode == 0, done.stderr
    assert len(rows_of(cfg)) > 0


def test_more_processes_than_gpus_are_refused(run_cfg: CFG):
    more = torch.cuda.device_count() + 1
    words = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", more
    done = run(*words, ROOT / "train" / "train_multi_task.py", *as_flags(run_cfg))
    assert done.returncode != 0 and "more processes than there are GPUs" in done.stderr


def run_here(monkeypatch: pytest.MonkeyPatch, script: Path, *words: object) -> None:
    """A script in this process."""
    monkeypatch.setattr(sys, "argv", [str(word) for word in (script, *words)])
    runpy.run_path(str(script), run_name="__main__")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_each_script_predicts(gpu, script: Path, tmp_path: Path, monkeypatch, capsys):
    shown = {flag for flag in QUICK[::2] if flag in _help(script, monkeypatch, capsys)}
    flags = [
        word for flag, value in zip(QUICK[::2], QUICK[1::2], strict=True) if flag in shown for word in (flag, value)
    ]
    words = "--weights", "scenes", "--image", ROOT / "images" / "scene.jpg", "--output-dir", tmp_path / "out"
    run_here(monkeypatch, script, *words, "--device", "cuda", *flags)
    assert json.loads((tmp_path / "out" / "result.json").read_text(encoding="utf-8"))


def _help(script: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> str:
    with pytest.raises(SystemExit):
        run_here(monkeypatch, script, "--help-all")
    return capsys.readouterr().out


def test_a_program_of_its_own_predicts_with_graphs(tmp_path: Path):
    """It leaves out what is not needed for its imports, and frees them of garbage."""
    script, out = ROOT / "infer" / "infer_single_image_multi_task.py", tmp_path / "out"
    words = "--image", ROOT / "images" / "demo.jpg", "--output-dir", out, "--device", "cuda", "--compile"
    done = run(script, *words, "--precision", "bf16")
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "result.json").read_text(encoding="utf-8"))


def test_an_evaluation(gpu, scenes_root: Path, tmp_path: Path, monkeypatch):
    words = "--weights", "scenes", "--data-root", scenes_root, "--output-dir", tmp_path / "out", "--num-samples", 1
    run_here(monkeypatch, ROOT / "evaluate" / "evaluate_multi_task.py", *words, "--device", "cuda", "--max-images", 4)
    report = json.loads((tmp_path / "out" / "metrics.json").read_text(encoding="utf-8"))
    assert report["metrics"]["detection"]["AP"] > 0.2
