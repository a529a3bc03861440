"""The errors that a user is shown without a traceback."""

from __future__ import annotations


class UserError(Exception):
    """A mistake that the user can fix: one sentence with what was expected, what came and what to do."""

    exit_status = 2
    everywhere = False  # whether all processes of a run raise it together, so that the first one alone shows it


class PartlyFailed(UserError):
    """Some of several parts of a task failed, and the results of the others are written."""

    exit_status = 3
