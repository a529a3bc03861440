"""A cache of decoded images: one file of fixed size that all loading processes share."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pix2seq.runtime.alone import locked
from pix2seq.runtime.eviction import remove_oldest
from pix2seq.runtime.paths import cache_folder, writable_folder

try:
    import fcntl
except ImportError:  # Windows, which removes no file that is open
    fcntl = None

SUFFIX = ".pixels"
LOCK = ".lock"
CHECKSUM_BYTES = 4


class DecodedCache:
    """Pixels of the first images that fit, each stored after its checksum, in one file.

    A process that is killed while it writes, or two processes that write at once, can at worst leave pixels that do not
    match their checksum: such images are decoded again. Caches of other datasets that no process uses are removed, the
    oldest first, until all caches take at most `limit_bytes`.
    """

    def __init__(
        self,
        paths: Sequence[Path],
        shapes: Sequence[tuple[int, int] | None],
        shrinks: Sequence[int],
        limit_bytes: int,
        folder: Path | None = None,
    ) -> None:
        """`shapes` are (height, width) of the images at `paths` when decoded `shrinks` times smaller; None: unknown."""
        self.shapes, self.shrinks = list(shapes), list(shrinks)
        sizes = [CHECKSUM_BYTES + 3 * shape[0] * shape[1] if shape else 0 for shape in shapes]
        ends = np.cumsum(sizes)
        self.held = int(np.searchsorted(ends, limit_bytes, side="right"))
        self.starts = [0, *ends.tolist()][: self.held]
        self.size = int(ends[self.held - 1]) if self.held else 0
        folder = folder or cache_folder() / "cache"
        self.file = folder / (self._name(paths) + SUFFIX)
        if self.size:
            writable_folder(folder, "--cache-gb")
            with locked(folder / LOCK):  # no other process creates or removes caches meanwhile
                others = (path for path in folder.glob(f"*{SUFFIX}") if path != self.file)
                remove_oldest(others, limit_bytes - self.size, _remove_unused)
                self._create()
                self._in_use = self.file.open("rb")  # until this process and those that it forks are done
                with contextlib.suppress(OSError):  # some network file systems have no locks
                    if fcntl:
                        fcntl.flock(self._in_use, fcntl.LOCK_SH)

    def _name(self, paths: Sequence[Path]) -> str:
        """A file name that depends on the paths, sizes and modification times of the images."""
        described = [
            [str(path.resolve()), shape, shrink, *_stamp(path)]
            for path, shape, shrink in zip(paths[: self.held], self.shapes, self.shrinks, strict=False)
        ]
        return hashlib.sha256(json.dumps(described).encode()).hexdigest()[:24]

    def _create(self) -> None:
        if self.file.is_file() and self.file.stat().st_size == self.size:
            return
        handle, unfinished = tempfile.mkstemp(suffix=".partial", dir=self.file.parent)
        os.truncate(handle, self.size)  # a sparse file: disk blocks are allocated as images are written
        os.close(handle)
        os.replace(unfinished, self.file)

    def _holds(self, index: int, shrink: int) -> bool:
        return index < self.held and self.shapes[index] is not None and self.shrinks[index] == shrink

    def get(self, index: int, shrink: int) -> np.ndarray | None:
        """The image (H, W, 3), read-only; None if it is not cached or does not match its checksum."""
        if not self._holds(index, shrink):
            return None
        height, width = self.shapes[index]
        try:
            with self.file.open("rb", buffering=0) as file:  # a mapped file may end the process where a disk is full
                file.seek(self.starts[index])
                data = file.read(CHECKSUM_BYTES + 3 * height * width)
        except OSError:
            return None
        checksum = int.from_bytes(data[:CHECKSUM_BYTES], "little")
        pixels = np.frombuffer(data, np.uint8)[CHECKSUM_BYTES:]
        if not checksum or checksum != _checksum(pixels) or len(pixels) != 3 * height * width:
            return None
        return pixels.reshape(height, width, 3)

    def put(self, index: int, shrink: int, image: np.ndarray) -> None:
        """Cache an image if there is a place for it; a full disk is not an error, since images can be decoded again."""
        if not self._holds(index, shrink) or image.shape[:2] != tuple(self.shapes[index]):
            return
        data = np.ascontiguousarray(image)
        try:
            with self.file.open("r+b") as file:
                file.seek(self.starts[index])
                file.write(_checksum(data).to_bytes(CHECKSUM_BYTES, "little") + data.tobytes())
        except OSError:
            return

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_in_use": None}  # a spawned loading process opens the file itself


def _checksum(pixels: np.ndarray) -> int:
    return zlib.crc32(pixels) or 1  # 0 is what an unwritten part of the file reads as


def _stamp(path: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change; zeros if the file does not exist or was just removed."""
    try:
        state = path.stat()
    except OSError:
        return 0, 0
    return state.st_size, state.st_mtime_ns


def _remove_unused(path: Path) -> None:
    """Remove a file; raise OSError if a process uses it."""
    if not fcntl:
        return path.unlink()
    with path.open("r+b") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink()
