"""Printing to terminals whose encoding lacks characters."""

import io
import sys

import pytest

from pix2seq.runtime.console import bar, print_anything

TEXT = "café 24 × 30 → █ … 图片 \udcff"  # the last is what Python makes of a byte in a file's name that is no UTF-8


def terminal(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, write_through=True)


@pytest.mark.parametrize(
    "encoding, printed",
    [
        ("ascii", "caf? 24 ? 30 ? ? ? ?? ?"),
        ("cp1252", "café 24 × 30 ? ? … ?? ?"),
        ("utf-8", "café 24 × 30 → █ … 图片 ?"),
    ],
)
def test_characters_that_a_terminal_lacks_become_question_marks(monkeypatch, encoding: str, printed: str):
    out, err = terminal(encoding), terminal(encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    print_anything()
    print(TEXT)
    print(TEXT, file=sys.stderr)
    assert out.buffer.getvalue().decode(encoding) == err.buffer.getvalue().decode(encoding) == printed + "\n"


def test_streams_that_are_no_terminals_are_not_changed(monkeypatch):
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stderr", None)  # as under pythonw
    print_anything()
    print(TEXT)
    assert sys.stdout.getvalue() == TEXT + "\n"


@pytest.mark.parametrize("encoding, drawn", [("ascii", "###"), ("cp1252", "###"), ("utf-8", "███")])
def test_bars_are_blocks_if_the_encoding_has_them(encoding: str, drawn: str):
    assert bar(3, terminal(encoding)) == drawn
