"""Counted memory: every tensor once, while it lives, and steps of a preset."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pix2seq.config import CFG


def test_tensors_count_once_and_while_they_live(bench: Callable[[str], ModuleType]):
    with bench("counting").PeakMemory() as memory:
        numbers = torch.ones(1000)
        numbers.view(10, 100)  # of the same storage
        assert memory.now == memory.peak == 4000
        numbers = numbers * 2  # beside the first ones for a moment
        assert (memory.now, memory.peak) == (4000, 8000)


def test_layers_that_are_computed_again_need_less(
    bench: Callable[[str], ModuleType], tiny_cfg: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    memory = bench("memory")
    monkeypatch.setitem(memory.PRESETS, "tiny", tiny_cfg)
    monkeypatch.setattr(memory, "apart", lambda work, *case: work(*case))
    monkeypatch.setattr(sys, "argv", ["memory.py", "--presets", "tiny", "--images", "2", "--output", str(tmp_path)])
    memory.main()
    rows = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["counted memory"]["rows"]
    peaks = {row["way"]: row["counted_mb"] for row in rows}
    assert 0 < peaks["recompute"] < peaks["as shipped"]
