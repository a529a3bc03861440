"""The one kind of error that a user is shown without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can fix: one sentence with what was expected, what came and what to do."""

    everywhere = False  # whether all processes of a run raise it together, so that the first one alone shows it
