"""The benchmarks of training and of whole tasks measure every way, and share one file of figures."""

import json
import sys
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from pix2seq.api import Model
from pix2seq.bench import timing
from pix2seq.config import CFG, replace
from pix2seq.errors import UserError
from pix2seq.train import learner
from pix2seq.train.engine import Trainer
from pix2seq.train.loss import batch_losses


@pytest.mark.parametrize("flag", ["--quick", "--memory"])
def test_every_way_of_training_is_measured(
    bench: Callable[[str], ModuleType], quick, tiny_cfg: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
):
    training = bench("training")
    changes = {
        "PRESETS": {"tiny": tiny_cfg},
        "SPEED": {"cpu": {"tiny": 4}},
        "MEMORY": ("tiny",),
        "BATCHES": (1,),
        "PREPARED": 1,
    }
    for name, value in (changes | {"apart": lambda work, *case: work(*case)}).items():
        monkeypatch.setattr(training, name, value)
    monkeypatch.setattr(sys, "argv", ["training.py", flag, "--output", str(tmp_path)])
    training.main()
    known = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    rows = known["memory" if flag == "--memory" else "training"]["rows"]
    assert {row["way"] for row in rows} >= {"as shipped", "recompute"}
    assert all(row["peak_mb"] != 0 for row in rows)
    if flag == "--quick":
        assert {row["way"] for row in rows} == training.WAYS.keys() - {"compile"}
        assert all(row["images_s"] > 0 for row in rows)
    assert learner.batch_losses is batch_losses  # as before


def test_padded_sequences_have_the_losses_of_packed_ones(bench: Callable[[str], ModuleType], tiny_cfg: CFG):
    trainer = Trainer(replace(tiny_cfg, batch_size=4, workers=0))
    trainer.begin_epoch(0)
    batch = next(iter(trainer.loader)).to(trainer.device)
    given = trainer.model.eval(), batch, trainer.cfg.train, trainer.auxiliary_head
    totals = trainer.learner.totals([batch], trainer.cfg.tasks)
    with torch.inference_mode():
        (packed, _), (padded, _) = (
            losses(*given, totals) for losses in (batch_losses, bench("training").padded_losses)
        )
    trainer.close()
    assert packed.keys() == padded.keys()
    torch.testing.assert_close(packed, padded, rtol=1e-4, atol=1e-4)


def test_a_kind_of_device_has_its_own_batches(bench: Callable[[str], ModuleType]):
    training = bench("training")
    chosen = Namespace(presets=[], ways=["as shipped"], images=[], memory=False, quick=False, compile=False)
    for where, sizes in training.SPEED.items():
        assert {(preset, size) for preset, size, _ in training.cases(chosen, where)} == set(sizes.items())
    chosen.presets, chosen.images = ["vit-l"], [1, 2]
    assert list(training.cases(chosen, "gpu")) == [("vit-l", 1, "as shipped"), ("vit-l", 2, "as shipped")]


def test_a_batch_that_does_not_fit_is_named(
    bench: Callable[[str], ModuleType], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    def fits(work: object, preset: str, size: int, way: str, device: str, once: bool) -> dict[str, Any]:
        if size > 1:
            raise torch.OutOfMemoryError
        return {"model": preset, "images": size, "way": way, "peak_mb": 1.0}

    training = bench("training")
    monkeypatch.setattr(training, "apart", fits)
    flags = ["--memory", "--presets", "demo", "--ways", "recompute", "--images", "2", "1", "--output", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["training.py", *flags])
    training.main()
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert rows == [["demo", "2", "recompute", "does", "not", "fit"], ["demo", "1", "recompute", "1", "MB"]]


@pytest.mark.parametrize("flags", [["training", "--ways", "nosuch"], ["decoding", "--models", "nosuch"]])
def test_an_unknown_name_is_a_user_error(
    bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, flags: list[str]
):
    monkeypatch.setattr(sys, "argv", flags)
    with pytest.raises(UserError, match=f"{flags[1]} nosuch is not there; expected some of "):
        bench(flags[0]).main()


def test_calls_to_warm_up_do_not_count(quick, monkeypatch: pytest.MonkeyPatch):
    calls: list[None] = []
    monkeypatch.setattr(timing, "FEWEST", {"cpu": 3})

    def slow_at_first() -> None:
        calls.append(time.sleep(0.05 if len(calls) < 2 else 0))

    times = timing.seconds(slow_at_first, torch.device("cpu"), warm_up=2)
    assert len(times) == 3 and len(calls) == 5
    assert max(times) < 0.05


class Asked:
    """A model that knows what it may be asked for."""

    tasks = "detection", "captioning"

    def __init__(self, weights: str, device: str, **settings: Any) -> None:
        assert settings.keys() == {"precision", "compile"}

    def __call__(self, image: Path, names: list[str]) -> None:
        assert image.exists() and set(names) <= set(self.tasks)


def test_tasks_are_measured_one_by_one_and_together(
    bench: Callable[[str], ModuleType], quick, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(Model, "load", Asked)
    for flags in (["--precisions", "fp32,bf16"], ["--precisions", "bf16", "--compile"]):
        monkeypatch.setattr(sys, "argv", ["tasks.py", *flags, "--output", str(tmp_path)])
        bench("tasks").main()
    rows = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["tasks"]["rows"]
    assert [row["precision"] for row in rows] == [*3 * ["fp32"], *3 * ["bf16"], *3 * ["bf16, compiled"]]
    assert [row["tasks"] for row in rows[:3]] == ["detection", "captioning", "detection, captioning"]
    monkeypatch.setattr(sys, "argv", ["plot.py", "--output", str(tmp_path)])
    bench("plot").main()
    assert (tmp_path / "bench.png").stat().st_size > 10_000


def test_figures_of_several_benchmarks_stand_in_one_file(tmp_path: Path):
    one, other = {"model": "a", "ms": 1}, {"model": "b", "ms": 2}
    timing.record(tmp_path, "first", {"rows": [one]}, ["model"])
    timing.record(tmp_path, "second", {"rows": [one]})
    timing.record(tmp_path, "second", {"rows": [other]})
    timing.record(tmp_path, "first", {"rows": [other]}, ["model"])
    assert timing.figures(tmp_path) == {"first": {"rows": [one, other]}, "second": {"rows": [other]}}
    timing.record(tmp_path, "first", {"rows": [one | {"ms": 3}]}, ["model"])
    assert timing.figures(tmp_path)["first"]["rows"] == [other, one | {"ms": 3}]
