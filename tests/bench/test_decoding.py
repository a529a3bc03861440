"""The benchmark of decoding measures every way, and writes its figures and a plot."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from pix2seq.config import CFG
from pix2seq.runtime.device import has_numba


def test_every_way_is_measured(
    bench: Callable[[str], ModuleType], quick, tiny_model_cfg: CFG, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    decoding = bench("decoding")
    monkeypatch.setattr(decoding, "PRESETS", {"tiny": tiny_model_cfg})
    for name, value in (("MODELS", {"tiny": 64}), ("QUICK", ("tiny",)), ("LENGTH", 20)):
        monkeypatch.setattr(decoding, name, value)
    compiled = ["--compile"] if has_numba(torch.device("cpu")) else []
    monkeypatch.setattr(sys, "argv", ["decoding.py", "--quick", "--output", str(tmp_path), *compiled])
    decoding.main()
    report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))["decoding"]
    ways = {row["way"] for row in report["rows"]}
    assert {"encode, fp32", "seed: the image at each token", "input cache", "fp32", "bf16", "int8"} <= ways
    assert {"fp32, whole vocabulary", "fp32, all threads", "fp32, busy process"} <= ways
    assert not compiled or {"fp32, compiled", "bf16, compiled", "int8, compiled"} <= ways
    assert all(row["low"] <= row["ms"] <= row["high"] for row in report["rows"]) and report["read_gb_s"] > 0
    assert all(row["limit_ms"] > 0 for row in report["rows"])
    monkeypatch.setattr(sys, "argv", ["plot.py", "--output", str(tmp_path)])
    bench("plot").main()
    assert (tmp_path / "bench.png").stat().st_size > 10_000
