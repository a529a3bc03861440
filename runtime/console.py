"""Printing to any terminal."""

from __future__ import annotations

import io
import sys
from typing import TextIO


def print_anything() -> None:
    """Let `print` never raise: what the terminal's encoding lacks, as ASCII lacks é and ×, is printed as `?`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not where a notebook or a test put something of its own
            stream.reconfigure(errors="replace")


def bar(length: int, stream: TextIO | None = None) -> str:
    """A bar of `length` characters: blocks, or `#` where `stream` (standard output) has none."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        "█".encode(encoding)
    except UnicodeEncodeError:
        return "#" * length
    return "█" * length
