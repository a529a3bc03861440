"""The benchmarks of training and of whole tasks measure every way, and share one file of figures."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pix2seq.config import CFG, replace
from pix2seq.train import learner
from pix2seq.train.engine import Trainer
from pix2seq.train.loss import batch_losses


@pytest.fixture
def quick(bench: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("SECONDS", {"cpu": 0.0}), ("FEWEST", 1)):
        monkeypatch.setattr(bench("timing"), name, value)


@pytest.mark.parametrize("flag", ["--quick", "--memory"])
def test_every_way_of_training_is_measured(
    bench: Callable[[str], ModuleType], quick, tiny_cfg: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flag: str
):
    training = bench("training")
    monkeypatch.setattr(learner, "batch_losses", learner.batch_losses)  # is what it was at the end
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


def test_figures_of_several_benchmarks_stand_in_one_file(bench: Callable[[str], ModuleType], tmp_path: Path):
    timing = bench("timing")
    one, other = {"model": "a", "ms": 1}, {"model": "b", "ms": 2}
    timing.record(tmp_path, "first", {"rows": [one]}, ["model"])
    timing.record(tmp_path, "second", {"rows": [one]})
    timing.record(tmp_path, "second", {"rows": [other]})
    timing.record(tmp_path, "first", {"rows": [other]}, ["model"])
    assert timing.figures(tmp_path) == {"first": {"rows": [one, other]}, "second": {"rows": [other]}}
    timing.record(tmp_path, "first", {"rows": [one | {"ms": 3}]}, ["model"])
    assert timing.figures(tmp_path)["first"]["rows"] == [other, one | {"ms": 3}]
