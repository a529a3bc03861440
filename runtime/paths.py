"""Where files are: users' paths are relative to the working directory, the project's own files are found by name."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

from pix2seq.errors import UserError

ROOT = Path(__file__).resolve().parents[1]
MOST_DEPTH = 64  # folders in folders that are looked into


def weights_path(name_or_path: str) -> Path:
    """The shipped weights file of this name (`scenes`), or the path itself."""
    return named_file(name_or_path, ROOT / "weights", ".safetensors")


def recipe_path(name_or_path: str) -> Path:
    """The recipe of this name (`scenes`), or the path itself."""
    return named_file(name_or_path, ROOT / "recipes", ".yaml")


def named_file(name_or_path: str, folder: Path, suffix: str) -> Path:
    """The file in `folder` whose name without `suffix` is given, or the path itself; `./scenes` is always a path."""
    shipped = {path.stem: path for path in folder.glob("*" + suffix)}
    return shipped.get(name_or_path, Path(name_or_path))


def cache_folder(name: str = "", in_checkout: str = "data") -> Path:
    """The folder of files that can be created again and are kept between runs, such as drawn scenes.

    It is `name` in `$PIX2SEQ_CACHE` if that is set, else the folder `in_checkout` of the checkout that this code is in,
    else `name` in `~/.cache/pix2seq`.
    """
    if chosen := os.environ.get("PIX2SEQ_CACHE"):
        return Path(chosen, name)
    if (ROOT / "pyproject.toml").is_file() and os.access(ROOT, os.W_OK):
        return ROOT / in_checkout
    return Path.home() / ".cache" / "pix2seq" / name


def folders_below(folder: Path, follow_links: bool = False) -> Iterator[Path]:
    """`folder` and all in it, MOST_DEPTH deep at most, but for hidden ones and those that may not be read; each once,
    wherever links lead."""
    seen: set[tuple[int, int]] = set()
    left = [(folder, 0)]
    while left:
        place, depth = left.pop()
        try:
            about = place.stat()
            with os.scandir(place) as entries:
                inner = sorted(entry.name for entry in entries if entry.is_dir(follow_symlinks=follow_links))
        except OSError:
            continue
        if (about.st_dev, about.st_ino) in seen:
            continue
        seen.add((about.st_dev, about.st_ino))
        yield place
        if depth < MOST_DEPTH:
            left += [(place / name, depth + 1) for name in reversed(inner) if not name.startswith(".")]


def writable_folder(path: Path, flag: str) -> Path:
    """Create the folder `path` if it does not exist; raise UserError, which names `flag`, if it is not writable."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error.strerror}); {flag} needs a writable folder") from None
    return path
