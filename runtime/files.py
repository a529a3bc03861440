"""Output files are written as a whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import socket
import stat
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from pix2seq.errors import UserError

UNFINISHED = ".unfinished-"  # how folders begin whose files are not all there; then the process that writes them
PARTIAL = ".partial"  # how the names of unfinished files end
LEFT_S = 24 * 3600  # no image takes as long


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yield a new path beside `path` for a file that takes its place once it is complete and on the disk.

    After an error, or a kill, `path` is what it was; a killed process leaves at most a file that ends in PARTIAL.
    """
    number, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=PARTIAL, dir=path.parent)
    os.close(number)
    unfinished = Path(name)
    try:
        yield unfinished
        unfinished.chmod(0o644)  # temporary files are for their owner alone
        flush(unfinished)
        os.replace(unfinished, path)
        flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def require_regular(path: Path) -> int:
    """The size of a regular file in bytes; raise OSError for what is none: a pipe or a device would have no end."""
    about = path.stat()
    if not stat.S_ISREG(about.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return about.st_size


def first_bytes(path: Path, most: int) -> bytes:
    """The first bytes of a regular file, to tell what it is; none of what is no such file or cannot be read."""
    try:
        require_regular(path)
        with path.open("rb") as file:
            return file.read(most)
    except OSError:
        return b""


def write_whole(path: Path, text: str) -> None:
    """Write a text file whole or not at all."""
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def flush(path: Path) -> None:
    """Have a file, or the names in a folder, written to the disk: a rename may otherwise come before the contents."""
    if path.is_dir() and os.name == "nt":
        return  # folders cannot be opened there
    number = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def writing(folder: Path, flag: str = "--output-dir") -> Iterator[None]:
    """Turn an OSError while writing into `folder`, which `flag` names, into a UserError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise UserError(f"{flag} {folder} cannot be written to ({reason}); choose another folder") from None


@contextlib.contextmanager
def output_folder(folder: Path, flag: str = "--output-dir") -> Iterator[Path]:
    """Yield an empty folder whose contents move into `folder` on success; after an error nothing is left behind."""
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    staging = None
    try:
        with writing(folder, flag):
            folder.mkdir(parents=True, exist_ok=True)
            _remove_leftovers(folder)
            staging = Path(tempfile.mkdtemp(prefix=f"{UNFINISHED}{_this_process()}-", dir=folder))
        yield staging
        with writing(folder, flag):
            move_contents(staging, folder)
        created = []
    finally:
        if staging:
            shutil.rmtree(staging, ignore_errors=True)
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()


def _this_process() -> str:
    """A name of this process among all that can write into a folder."""
    return f"{socket.gethostname()}-{os.getpid()}"


def _remove_leftovers(folder: Path) -> None:
    """Remove what killed processes left in `folder`; those of other machines, such as a container of before, cannot
    be asked about: theirs is what has not changed for a day."""
    here = f"{UNFINISHED}{socket.gethostname()}-"
    for path in folder.glob(f"{UNFINISHED}*"):
        process = path.name.removeprefix(here).partition("-")[0]
        with contextlib.suppress(OSError):  # another process removes it, too
            if path.name.startswith(here) and process.isdecimal():
                is_left = not is_running(int(process))
            else:
                is_left = time.time() - path.stat().st_mtime > LEFT_S
            if is_left:
                shutil.rmtree(path, ignore_errors=True)


def is_running(process: int) -> bool:
    """Whether a process of this machine has not ended; where that cannot be asked, it counts as running."""
    if os.name == "nt":  # where signal 0 would end it
        return True
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is there, but another user's
        return True
    return True


def move_contents(source: Path, target: Path) -> None:
    """Move the files of a folder into another one, replacing those of the same name."""
    for path in sorted(source.rglob("*")):
        destination = target / path.relative_to(source)
        if path.is_dir():
            destination.mkdir(exist_ok=True)
        else:
            os.replace(path, destination)
