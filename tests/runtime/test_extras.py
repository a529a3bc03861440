"""Packages of extras: one that is not installed is one sentence."""

import re
import sys

import pytest

from pix2seq.errors import UserError
from pix2seq.runtime.extras import require_extra
from pix2seq.runtime.paths import ROOT

EXTRAS = re.findall(r'^(\w+) = \["', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)


def test_a_package_that_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(UserError, match=r"an export needs onnx, which .* pip install 'pix2seq-toolkit\[export\]'"):
        require_extra("export", "numpy", "onnx", needed_by="an export")
    require_extra("export", "numpy", needed_by="an export")


def test_every_extra_that_is_asked_for_is_one_of_the_project():
    sources = [path.read_text(encoding="utf-8") for room in ("infer", "train") for path in (ROOT / room).rglob("*.py")]
    asked = {name for source in sources for name in re.findall(r'require_extra\("(\w+)"', source)}
    assert len(asked) > 3 and asked <= set(EXTRAS)
