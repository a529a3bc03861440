"""What several processes would make at once is made by one, while the others wait."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from pix2seq.runtime.console import tell

NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)  # what some network file systems answer


def has_no_locks(error: OSError | NotImplementedError) -> bool:
    """Whether a lock could not be had because the file system, or the system, knows none."""
    return isinstance(error, NotImplementedError) or error.errno in NO_LOCKS


@contextlib.contextmanager
def alone(file: Path, does_what: str) -> Iterator[bool]:
    """Lock `file` for this process; yield whether another one had it, for which a line says that it is waited.

    A killed process holds nothing. On a file system without locks a line says so, and nobody waits. Raises OSError if
    the file cannot be created.
    """
    lock, waited = FileLock(file), False
    try:
        try:
            lock.acquire(timeout=0)
        except Timeout:
            tell(f"waiting for another process that {does_what}")
            lock.acquire()
            waited = True
    except (OSError, NotImplementedError) as error:
        if not has_no_locks(error):
            raise
        tell(f"{file.parent} is on a file system without locks: let no second process work there")
    try:
        yield waited
    finally:
        lock.release()


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Lock `file` for this thread for as long as a moment's work, or where others would only do the same work twice:
    without a word where it is waited for, or where the file system has no locks."""
    lock = FileLock(file)
    with contextlib.suppress(OSError, NotImplementedError):
        lock.acquire()
    try:
        yield
    finally:
        lock.release()
