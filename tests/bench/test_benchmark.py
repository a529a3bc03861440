"""The benchmark runs and reports every measurement."""

from collections.abc import Callable
from types import ModuleType

import pytest

from pix2seq import config
from pix2seq.config import CFG


def test_every_figure_is_reported(
    bench: Callable[[str], ModuleType], tiny_cfg: CFG, monkeypatch: pytest.MonkeyPatch, capsys
):
    benchmark = bench("benchmark")
    for name, value in (("RESPONSE_TOKENS", 4), ("TRAIN_STEPS", 1), ("REPEATS", 1)):
        monkeypatch.setattr(benchmark, name, value)
    benchmark.main(config.replace(tiny_cfg, eval_batch_size=2))
    printed = capsys.readouterr().out
    for figure in ("ms per image", "ms per step", "tokens/s", "times as fast", "images/s", "waiting for data"):
        assert figure in printed
