"""Text files are UTF-8 on every system: no call relies on the system's default encoding."""

import ast
from collections.abc import Iterator
from pathlib import Path

from pix2seq.runtime.paths import ROOT

SKIPPED = {".git", ".venv", ".venv-lowest", "build"}  # folders that hold no source of ours


def sources() -> Iterator[Path]:
    for path in ROOT.rglob("*.py"):
        if not SKIPPED & set(path.relative_to(ROOT).parts):
            yield path


def text_without_encoding(source: str) -> list[int]:
    """Lines of `source` that open, read or write a text file without an explicit encoding."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [call.lineno for call in calls if _is_text(call) and "encoding" not in {word.arg for word in call.keywords}]


def _is_text(call: ast.Call) -> bool:
    if isinstance(call.func, ast.Attribute):
        owner, name, mode_place = ast.unparse(call.func.value), call.func.attr, 0
    else:
        owner, name, mode_place = "", ast.unparse(call.func), 1
    if owner and name in ("read_text", "write_text"):
        return True
    if name != "open" or owner in ("Image", "os", "tarfile"):
        return False
    if owner and not all(any(map(_is_string, ast.walk(arg))) for arg in call.args):
        return False  # what is opened is no path: a path's `open` begins with a mode
    modes = [*call.args[mode_place : mode_place + 1], *(word.value for word in call.keywords if word.arg == "mode")]
    return not any("b" in constant.value for mode in modes for constant in ast.walk(mode) if _is_string(constant))


def _is_string(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def test_every_text_file_is_opened_with_its_encoding():
    found = {str(path.relative_to(ROOT)): text_without_encoding(path.read_text(encoding="utf-8")) for path in sources()}
    assert len(found) > 50
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_calls_without_an_encoding_are_found():
    text = ["path.read_text()", "path.write_text(x)", "open(x)", "open(x, 'a')", "path.open()", "path.open(mode='w')"]
    others = ["path.read_text(encoding='utf-8')", "open(x, 'rb')", "path.open('ab' if y else 'wb')", "Image.open(x)"]
    others += ["opener.open(request, timeout=3)", "layout.open(part, tasks)"]
    assert text_without_encoding("\n".join(text + others)) == list(range(1, len(text) + 1))
