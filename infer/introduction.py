"""Say what weights are good for: to a user who uses a file for the first time, or for whom it found nothing."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
from pathlib import Path

from pix2seq.runtime.paths import cache_folder

KNOWN = "known_weights.txt"  # in the cache folder: a line for each file that was introduced
STRONGER = "--weights multi-vit-b-640"
DRAWN = "drawn scenes; it knows no photographs"


def description(domain: str, licence: str, data_root: str) -> str:
    """What to say of weights that carry `domain` and `licence`. Those without a domain whose training named no
    `data_root` have learned from the toolkit's drawn scenes."""
    known = domain or ("" if data_root else DRAWN)
    return f"{known} (licence: {licence})" if known and licence else known


def introduce(path: Path, about: str, again: bool = False) -> bool:
    """Print `about` in a line on standard error if the weights file at `path` is new to the user, or `again`.

    Returns whether it was printed, or there is nothing to print. A cache that cannot be written is no error.
    """
    if about and (again or _is_new(path)):
        print(f"{path.name}: {about}; stronger weights: {STRONGER}", file=sys.stderr)
        return True
    return not about


def _is_new(path: Path) -> bool:
    """Whether the file as it is now is used for the first time; it is not, after this."""
    known = cache_folder() / KNOWN
    try:
        state = path.stat()
        place = os.fsencode(path.resolve())  # not every name of a file is UTF-8
        name = hashlib.sha256(place + f" {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:24]
        if known.is_file() and name in known.read_text(encoding="utf-8").split():
            return False
    except (OSError, UnicodeDecodeError):
        return True
    with contextlib.suppress(OSError):
        known.parent.mkdir(parents=True, exist_ok=True)
        with known.open("a", encoding="utf-8") as file:
            file.write(name + "\n")
    return True
