"""Benchmarks are scripts: they are imported from their folder."""

import importlib
from collections.abc import Callable
from types import ModuleType

import pytest

import config


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """Import a benchmark by name."""
    monkeypatch.syspath_prepend(str(config.ROOT / "bench"))
    return importlib.import_module
