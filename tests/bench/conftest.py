"""Benchmarks are scripts: they are imported from their folder."""

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest

from pix2seq.runtime.paths import ROOT


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark by name."""
    monkeypatch.syspath_prepend(str(ROOT / "bench"))
    return importlib.import_module
