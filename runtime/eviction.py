"""What is kept on the disk for speed alone makes room for what is new, the oldest first."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from pathlib import Path


def remove_oldest(files: Iterable[Path], room_bytes: int, remove: Callable[[Path], object] = Path.unlink) -> None:
    """Remove those of `files` that were not changed for longest until the others take at most `room_bytes`.

    A file for which `remove` raises OSError stays, and another one goes in its place.
    """
    found = []
    for path in files:
        with contextlib.suppress(OSError):  # another process removes it
            state = path.stat()
            found.append((state.st_mtime_ns, state.st_size, path))
    excess = sum(size for _, size, _ in found) - room_bytes
    for _, size, path in sorted(found):
        if excess <= 0:
            return
        with contextlib.suppress(OSError):
            remove(path)
            excess -= size
