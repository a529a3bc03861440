"""Packages that only those have who asked for them: the extras of pyproject.toml."""

from __future__ import annotations

import importlib.util

from pix2seq.errors import UserError


def require_extra(extra: str, *packages: str, needed_by: str) -> None:
    """Raise UserError if one of `packages`, which come with an `extra` of the project, is not installed.

    Nothing is imported: some packages take seconds, or must find settings in the environment when they are.
    """
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise UserError(
                f"{needed_by} needs {package}, which is not installed: pip install 'pix2seq-toolkit[{extra}]'"
            )
