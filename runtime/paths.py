"""Where files are: what a user names is relative to the working directory, what belongs to the project has a name."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from pix2seq.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def weights_path(name_or_path: str) -> Path:
    """The weights file that is shipped under this name (`scenes`), or the path itself."""
    return named_file(name_or_path, ROOT / "weights", ".safetensors")


def recipe_path(name_or_path: str) -> Path:
    """The recipe of this name (`scenes`), or the path itself."""
    return named_file(name_or_path, ROOT / "recipes", ".yaml")


def named_file(name_or_path: str, folder: Path, suffix: str) -> Path:
    """The file in `folder` whose name without `suffix` is given, or the path itself; `./scenes` is always a path."""
    shipped = {path.stem: path for path in folder.glob("*" + suffix)}
    return shipped.get(name_or_path, Path(name_or_path))


def cache_folder() -> Path:
    """Where what can be made again is kept between runs (drawn scenes, decoded images).

    That is `$PIX2SEQ_CACHE`, else `data/` of the checkout that this code is in, else `~/.cache/pix2seq`.
    """
    if chosen := os.environ.get("PIX2SEQ_CACHE"):
        return Path(chosen)
    if (ROOT / "pyproject.toml").is_file() and os.access(ROOT, os.W_OK):
        return ROOT / "data"
    return Path.home() / ".cache" / "pix2seq"


def writable_folder(path: Path, flag: str) -> Path:
    """The folder `path` that `flag` asks for, made if need be; raise UserError if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error.strerror}); {flag} needs a writable folder") from None
    return path
