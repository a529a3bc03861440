"""Weights by what a user calls them: a path, a shipped name, an official name, or a file on the Hugging Face hub."""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

from pix2seq.errors import UserError
from pix2seq.runtime.paths import ROOT, weights_path
from pix2seq.weights.hub import HUB, HUB_FILE, fetch
from pix2seq.weights.official import CHECKPOINTS, table


def find_weights(name: str) -> Path:
    """The file that `--weights` or `--start-from` names, fetched (and converted) first if it is not here yet.

    `name` is a path, the name of shipped weights or of an official checkpoint, or
    `hf://owner/repo[@revision][/file]`. Names win over files of the same name; `./scenes` is always a path. Raises
    UserError if there is no such name, or if what is to be fetched cannot be.
    """
    if name.startswith(HUB):
        return fetch(name)
    if name in CHECKPOINTS:
        from pix2seq.weights.official_fetch import obtain

        return obtain(name)
    path = weights_path(name)
    if not path.exists() and (near := get_close_matches(name, [*shipped(), *CHECKPOINTS], 1)):
        raise UserError(f"there is no weights file {name}; did you mean {near[0]}? --list-weights shows all names")
    return path


def shipped() -> list[str]:
    """The names of the weights that come with the project."""
    return sorted(path.stem for path in (ROOT / "weights").glob("*.safetensors"))


def at_hand() -> list[str]:
    """The names of weights that need not be fetched: shipped ones, and official checkpoints that were fetched once."""
    from pix2seq.weights.official_fetch import official_folder

    folder = official_folder()
    return [*shipped(), *(name for name in CHECKPOINTS if (folder / f"{name}.safetensors").is_file())]


def describe_names() -> str:
    """What `--list-weights` prints."""
    return (
        f"shipped: {', '.join(shipped())}\n"
        f"a file on the Hugging Face hub: {HUB}owner/repo, {HUB}owner/repo@revision or {HUB}owner/repo/{HUB_FILE}\n"
        f"official checkpoints, fetched when they are first used:\n{table()}"
    )
