"""Benchmarks are scripts: they are imported from their folder."""

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest

from pix2seq.bench import timing
from pix2seq.runtime.paths import ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark by name."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each figure is that of one call, of small ones where the machine is measured."""
    for name, value in (("SECONDS", 0.0), ("FEWEST", 1), ("READ", 1000), ("SIDE", 64)):
        monkeypatch.setattr(timing, name, {"cpu": value, "gpu": value})
