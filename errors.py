"""The kinds of errors that a user is shown without a traceback, and how a stranger's words and long lists are shown."""

from __future__ import annotations

from collections.abc import Sequence

MOST_SHOWN = 200  # characters of a text that a stranger wrote


class UserError(Exception):
    """A mistake that the user can fix: one sentence with what was expected, what came and what to do."""

    exit_status = 2
    everywhere = False  # whether all processes of a run raise it together, so that the first one alone shows it


class PartlyFailed(UserError):
    """Some of several parts of a task failed, and the results of the others are written."""

    exit_status = 3


class Unreadable(UserError):
    """A file cannot be read; of many, the others can be used."""


def plain(text: str, most: int = MOST_SHOWN) -> str:
    """At most `most` printable characters of a stranger's text on one line: nothing that a terminal would obey."""
    line = " ".join(text[: 4 * most].split())  # a long text is not worked through for its beginning
    return "".join(character for character in line if character.isprintable())[:most]


def shown(value: object, most: int = 60) -> str:
    """A value from a file as an error message shows it: plain and short, however large it is."""
    if isinstance(value, str):
        text = repr(value[: most + 1])
    elif value is None or isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 10**most):
        text = repr(value)
    elif isinstance(value, (list, tuple)) and all(isinstance(item, str) and len(item) < most for item in value[:4]):
        text = repr(value) if len(value) <= 4 else f"{len(value)} texts"
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= most else plain(text, most - 1) + "…"


def listed(names: Sequence[str], most: int) -> str:
    """The first `most` names with commas, and how many more there are."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
