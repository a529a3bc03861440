"""The folder of a run has one owner, and a past that nothing overwrites in silence."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import socket
import time
from pathlib import Path

from filelock import FileLock, Timeout

from pix2seq.errors import UserError
from pix2seq.runtime.alone import has_no_locks
from pix2seq.runtime.checkpoint import CHECKPOINT, PREVIOUS
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import PARTIAL, is_running, write_whole
from pix2seq.runtime.paths import writable_folder
from pix2seq.runtime.text import is_unicode, read_text

SETTINGS, METRICS = "cfg.json", "metrics.csv"
LAST, BEST, CURVES = "last.safetensors", "best.safetensors", "curves.png"
TRACKED_AS = "tracker.txt"
WRITTEN = (SETTINGS, METRICS, CHECKPOINT, PREVIOUS, LAST, BEST, CURVES, TRACKED_AS)
FOLDERS = ("tensorboard", "evaluation", "wandb")
LOCK, OWNER = ".lock", ".owner"
GRACE_S = 15  # data loading processes of a killed run keep its folder locked until they notice, some seconds later


class RunFolder:
    """`path`, which this process alone writes to until `close`."""

    def __init__(self, path: Path) -> None:
        """Raises UserError, which names the owner, if another process has the folder."""
        if not is_unicode(str(path)):
            raise UserError(f"{path} is not in UTF-8, as TensorBoard needs it; name another folder with --run-dir")
        self.path = writable_folder(path, "--run-dir")
        require_own_folders(path)
        self._lock = FileLock(path / LOCK)
        self._take()
        for left in path.glob("*" + PARTIAL):  # by a process that was killed
            left.unlink(missing_ok=True)

    def _take(self) -> None:
        path = self.path
        try:
            self._acquire()
        except Timeout:
            owner = _read(path / OWNER) or "another process"
            raise UserError(
                f"{path} is in use by {owner}; wait until it has ended, or name another folder with --run-dir"
            ) from None
        except (OSError, NotImplementedError) as error:
            if not has_no_locks(error):
                raise UserError(f"{path / LOCK} cannot be used ({error}); name another folder with --run-dir") from None
            tell(f"{path} is on a file system without locks: start no second run there")
        self._taken = _identity(path / LOCK)
        now = time.strftime("%Y-%m-%d %H:%M")
        write_whole(path / OWNER, f"process {os.getpid()} on {socket.gethostname()}, since {now}")

    def make_again(self) -> bool:
        """Make the folder again if somebody has removed it or its files since the run began; whether that was so, which
        a line says. Raises UserError if it cannot be made, or another run has begun there."""
        if (self.path / SETTINGS).exists() and _identity(self.path / LOCK) == self._taken:
            return False
        self._lock.release(force=True)
        writable_folder(self.path, "--run-dir")
        self._take()
        tell(f"{self.path} was removed: it is made again, with what the run knows; earlier rows and files are lost")
        return True

    def _acquire(self) -> None:
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            if not _is_gone(_read(self.path / OWNER)):
                raise
            self._lock.acquire(timeout=GRACE_S)

    def clear(self) -> None:
        """Remove what an earlier run wrote."""
        for name in WRITTEN:
            (self.path / name).unlink(missing_ok=True)
        for name in FOLDERS:
            shutil.rmtree(self.path / name, ignore_errors=True)

    def close(self) -> None:
        """Let others write to the folder."""
        if self._lock.is_locked:
            (self.path / OWNER).unlink(missing_ok=True)
            self._lock.release()


def require_own_folders(path: Path) -> None:
    """Raise UserError if a folder in a run's folder is a link: what is written there would go elsewhere."""
    for name in FOLDERS:
        if (path / name).is_symlink():
            raise UserError(f"{path / name} is a link to elsewhere; remove it, or name another folder")


def claim(path: Path, resume: bool = False, overwrite: bool = False) -> RunFolder:
    """The folder `path` for this process. A new run in one that has been used gets `path`-2, -3, … unless it may
    `overwrite`, and a line says so. Raises UserError if another process has it, or it cannot be written to."""
    if resume or overwrite or not is_used(path):
        return RunFolder(path)
    RunFolder(path).close()  # nobody trains in it now: two runs that share its name would rather be a mistake
    for number in itertools.count(2):
        other = path.with_name(f"{path.name}-{number}")
        if not is_used(other):
            with contextlib.suppress(UserError):  # a run has just begun there
                folder = RunFolder(other)
                tell(f"{path} holds an earlier run: this one goes to {other} (--overwrite replaces the earlier one)")
                return folder
        if not os.access(path.parent, os.W_OK):
            return RunFolder(other)  # its UserError
    raise AssertionError  # numbers do not end


def newest(path: Path) -> Path:
    """The last of `path`, `path`-2, … that a run has written to; `path` if there is none."""
    last = path
    for number in itertools.count(2):
        other = path.with_name(f"{path.name}-{number}")
        if not is_used(other):
            return last
        last = other
    raise AssertionError  # numbers do not end


def is_used(path: Path) -> bool:
    """Whether a run has written to the folder."""
    return any((path / name).exists() for name in WRITTEN)


def _read(path: Path) -> str:
    """The text of a file; empty if it cannot be read."""
    try:
        return read_text(path)
    except (OSError, UserError):
        return ""


def _identity(path: Path) -> tuple[int, int] | None:
    """What tells a file from a later one of its name; None if there is none."""
    try:
        about = path.stat()
    except OSError:
        return None
    return about.st_dev, about.st_ino


def _is_gone(owner: str) -> bool:
    """Whether the owner was a process of this machine that has ended."""
    words = owner.replace(",", " ").split()
    if len(words) < 4 or words[3] != socket.gethostname() or not words[1].isdecimal():
        return False
    return not is_running(int(words[1]))
