"""Counted memory: every tensor once, while it lives, and steps of a preset."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pix2seq.config import CFG
from pix2seq.models.resnet import BatchNorm
from pix2seq.runtime.device import in_few_sizes


def test_tensors_count_once_and_while_they_live(bench: Callable[[str], ModuleType]):
    with bench("counting").PeakMemory() as memory:
        numbers = torch.ones(1000)
        numbers.view(10, 100)  # of the same storage
        assert memory.now == memory.peak == 4000
        numbers = numbers * 2  # beside the first ones for a moment
        assert (memory.now, memory.peak) == (4000, 8000)


def test_norms_are_as_wide_as_on_a_gpu(bench: Callable[[str], ModuleType]):
    with bench("counting").as_on_gpu(), torch.autocast("cpu", torch.bfloat16):
        assert torch.nn.LayerNorm(4)(torch.ones(2, 4, dtype=torch.bfloat16)).dtype == torch.float32


def test_dropout_keeps_a_byte_for_each_number(bench: Callable[[str], ModuleType]):
    counting, x = bench("counting"), torch.ones(1000, requires_grad=True)
    with counting.as_on_gpu(), counting.PeakMemory() as memory:
        result = torch.nn.Dropout(0.5)(x)
        assert (len(result), memory.now) == (1000, 5000)


def test_batches_have_the_sizes_of_a_gpu(bench: Callable[[str], ModuleType]):
    images = torch.zeros(5, 3, 2, 2)
    with bench("counting").as_on_gpu():
        assert len(in_few_sizes(images)) == 6
    assert len(in_few_sizes(images)) == 5


def test_batch_norm_needs_no_copies_of_a_processors_order(bench: Callable[[str], ModuleType]):
    counting = bench("counting")
    norm, x = BatchNorm(8).train(), torch.ones(2, 8, 16, 16, requires_grad=True)

    def needed() -> int:
        with counting.PeakMemory() as memory:
            norm(x).sum().backward()
        return memory.peak

    with counting.as_on_gpu():
        on_gpu = needed()
    assert on_gpu < 0.9 * needed()


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
