"""Where files are."""

from __future__ import annotations

import tempfile
from pathlib import Path

from pix2seq.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def project_path(path: str) -> Path:
    """`path` itself if absolute or if it exists in the working directory, else below the project's folder."""
    if Path(path).is_absolute() or Path(path).exists():
        return Path(path)
    return ROOT / path


def writable_folder(path: Path, flag: str) -> Path:
    """The folder `path` that `flag` asks for, made if need be; raise UserError if nothing can be written there."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise UserError(f"{path} cannot be written to ({error.strerror}); {flag} needs a writable folder") from None
    return path
