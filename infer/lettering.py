"""Text in drawings: Latin, Greek, Cyrillic, Hebrew, Arabic, Chinese, Japanese and Korean.

Pillow draws a text in one font, from left to right, with letters as they stand in the text; libraries that could do
more are not installed everywhere. Here each letter gets a font that has it, Hebrew and Arabic their order and forms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

from PIL import ImageDraw, ImageFont

from pix2seq.infer.arabic import in_writing_order

WIDE_FONT = Path(__file__).parent / "fonts" / "DroidSansFallback.ttf"
WIDE = ("W", "F")  # Unicode's width of Chinese, Japanese and Korean letters


def draw_text(
    drawer: ImageDraw.ImageDraw, place: tuple[float, float], text: str, size_px: int, fill: int | tuple[int, int, int]
) -> None:
    """Draw a line of text with its upper left corner at `place`, x and y in pixels."""
    x, y = place[0], place[1] + line_metrics(text, size_px)[0]
    for part, font in _parts(text, size_px):
        drawer.text((x, y), part, fill=fill, font=font, anchor="ls")
        x += font.getlength(part)


def text_length(text: str, size_px: int) -> float:
    """Width of a line of text in pixels."""
    return sum(font.getlength(part) for part, font in _parts(text, size_px))


def line_metrics(text: str, size_px: int) -> tuple[int, int]:
    """Pixels of a line above and below its base line."""
    metrics = [font.getmetrics() for _, font in _parts(text, size_px)] or [_font("", size_px).getmetrics()]
    return max(above for above, _ in metrics), max(below for _, below in metrics)


def wrapped(text: str, width_px: float, size_px: int) -> list[str]:
    """The text in lines of at most this width; words that are longer, as those of scripts without spaces, are cut."""
    lines = [""]
    for word in re.findall(r"\s+|\S+", text):
        if text_length(lines[-1] + word, size_px) <= width_px or word.isspace():
            lines[-1] += word
            continue
        lines += [""] if lines[-1].strip() else []
        for letter in word:
            if lines[-1] and text_length(lines[-1] + letter, size_px) > width_px:
                lines.append("")
            lines[-1] += letter
    return [line.strip() for line in lines]


def _parts(text: str, size_px: int) -> Sequence[tuple[str, ImageFont.FreeTypeFont]]:
    """The text, as it is seen from left to right, in parts of one font each."""
    line = in_writing_order(" ".join(text.split()))
    narrow = "latin" if line.isascii() else "world"
    kinds = groupby(line, lambda letter: "wide" if unicodedata.east_asian_width(letter) in WIDE else narrow)
    return [("".join(letters), _font(kind, size_px)) for kind, letters in kinds]


@lru_cache(maxsize=64)
def _font(kind: str, size_px: int) -> ImageFont.FreeTypeFont:
    path = {"wide": WIDE_FONT, "world": _dejavu()}.get(kind)
    if path is None:
        return ImageFont.load_default(size_px)
    return ImageFont.truetype(path, size_px, layout_engine=ImageFont.Layout.BASIC)  # the same on every machine


@lru_cache(maxsize=1)
def _dejavu() -> Path | None:
    """The font that matplotlib brings along, found without importing it."""
    spec = find_spec("matplotlib")
    path = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf" if spec and spec.origin else None
    return path if path and path.is_file() else None
