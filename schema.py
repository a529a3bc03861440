"""What files hold becomes typed values here, or one error that names the file and the field.

msgspec decodes and checks in one pass: types, ranges and lengths are written beside the fields. It follows a text no
deeper than its type, keeps no value that was not asked for, and its messages hold the field's path but none of its
content.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from pix2seq.errors import UserError, plain
from pix2seq.runtime.files import require_regular

Kind = TypeVar("Kind")
Value = bool | int | float | str | list[bool | int | float | str] | None
Settings = dict[str, Value | dict[str, Value]]  # by name, also below the names of their groups
MOST_BYTES = 64 * 2**20  # of a text that is read as a whole
_PLACE = re.compile(r"^(?P<reason>.*?)(?: - at `(?P<place>.*)`)?$", re.DOTALL)


def decode(text: str | bytes, kind: type[Kind] | Any, source: str, advice: str = "get it again") -> Kind:
    """The value of `kind` that a JSON text holds; if it has none, raise UserError, which names `source` and field and
    gives the `advice`."""
    return _decoded(partial(msgspec.json.decode, text, type=kind), source, advice)


def decode_lines(text: bytes, kind: type[Kind] | Any, source: str, advice: str = "get it again") -> list[Kind]:
    """The values of `kind` that the lines of a text hold, each a JSON of its own; raise UserError as `decode` does."""
    return _decoded(partial(msgspec.json.Decoder(kind).decode_lines, text), source, advice)


def _decoded(read: Callable[[], Kind], source: str, advice: str) -> Kind:
    try:
        return read()
    except RecursionError:
        raise UserError(f"{source} is nested too deep to be read; {advice}") from None
    except (msgspec.DecodeError, UnicodeError) as error:  # a ValidationError is a DecodeError
        raise UserError(f"{_sentence(error, source)}; {advice}") from None


def convert(value: Any, kind: type[Kind] | Any, source: str, advice: str) -> Kind:
    """`value`, made of plain types, as a `kind`; raise UserError as `decode` does."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise UserError(f"{_sentence(error, source)}; {advice}") from None


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes:
    """The content of a regular file of at most `most` bytes; raise OSError."""
    size = require_regular(path)
    if size > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", str(path))
    return path.read_bytes()


def _sentence(error: Exception, source: str) -> str:
    """What is wrong where, of an error such as "Expected `int`, got `str` - at `$.flip[0]`"."""
    found = _PLACE.match(str(error))
    place = plain((found["place"] or "$").removeprefix("$").removeprefix("."))
    reason = plain(found["reason"].replace("`", ""))
    if not reason[:2].isupper():  # JSON
        reason = reason[:1].lower() + reason[1:]
    return f"{source} cannot be read: {reason}{f', in {place}' if place else ''}"
