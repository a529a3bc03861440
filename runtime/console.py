"""Printing to terminals of any encoding, by one of several processes."""

from __future__ import annotations

import io
import os
import sys
from typing import TextIO

from pix2seq.errors import plain

MOST_OF_NOTE = 1000  # characters


def print_anything() -> None:
    """Print characters that the terminal's encoding lacks (é and × in ASCII) as `?` instead of raising an error."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # notebooks and tests replace the streams by other objects
            stream.reconfigure(errors="replace")


def bar(length: int, stream: TextIO | None = None) -> str:
    """A bar of `length` characters: blocks, or `#` where `stream` (standard output) has none."""
    encoding = getattr(stream or sys.stdout, "encoding", None) or "ascii"
    try:
        "█".encode(encoding)
    except UnicodeEncodeError:
        return "#" * length
    return "█" * length


def tell(line: str) -> None:
    """A line that is not an error; with torchrun, from the first process alone."""
    if os.environ.get("RANK", "0") == "0":
        print(f"note: {plain(line, MOST_OF_NOTE)}", file=sys.stderr)
