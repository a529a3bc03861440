"""Scenes stored on disk one by one; each is drawn by the process that needs it first."""

from __future__ import annotations

import json
import multiprocessing
import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import cv2
from tqdm import tqdm

from pix2seq.errors import UserError
from pix2seq.runtime.alone import alone
from pix2seq.runtime.paths import writable_folder
from pix2seq.scenes.scene import draw_jpeg

CHUNK = 16  # scenes that a process draws at a time

Result = TypeVar("Result")


@dataclass(frozen=True)
class KeptScenes:
    """The scenes of a split below `root`: image 000000000001.jpg with its record 000000000001.json, and so on.

    A record is written after its image, and each file is complete once it exists. A scene is the same whichever process
    draws it, so several processes or runs may store it at once.
    """

    root: Path
    split: str
    seed: int

    @property
    def folder(self) -> Path:
        """The folder of the files."""
        return self.root / self.split

    def _file(self, index: int, suffix: str) -> Path:
        return self.folder / f"{index + 1:012d}{suffix}"

    def record(self, index: int) -> dict[str, Any]:
        """The record of a scene (see `draw_jpeg`), which is drawn first if it is not stored yet."""
        try:
            return json.loads(self._file(index, ".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):  # a machine that lost power may have kept an empty file
            return self.draw(index)

    def draw(self, index: int) -> dict[str, Any]:
        """Draw and store a scene, whether or not it is stored already; return its record."""
        jpeg, record = draw_jpeg(self.seed, self.split, index)
        self.folder.mkdir(parents=True, exist_ok=True)
        store(self._file(index, ".jpg"), jpeg)
        store(self._file(index, ".json"), json.dumps(record).encode())
        return record

    def missing(self, count: int) -> list[int]:
        """Indices of those of the first `count` scenes that are not stored yet; UserError if they cannot be stored."""
        found = set()
        if self.folder.is_dir():
            found = {entry.name for entry in os.scandir(self.folder) if entry.stat().st_size}
        names = ((index, (self._file(index, ".jpg").name, self._file(index, ".json").name)) for index in range(count))
        missing = [index for index, pair in names if not found.issuperset(pair)]
        if missing:
            writable_folder(self.folder, "keeping the synthetic scenes")
        return missing

    def complete(self, count: int) -> None:
        """Draw those of the first `count` scenes that are not stored yet, on all processors, with a progress bar; of
        several runs that need them, one does."""
        if self.missing(count):
            with alone(self.folder / ".lock", f"draws the scenes in {self.folder}"):
                for _ in in_processes(self.draw, self.missing(count), f"drawing {self.split}"):
                    pass


def in_processes(work: Callable[[int], Result], indices: Sequence[int], title: str) -> Iterator[Result]:
    """Yield `work(index)` for each index in order, computed on all processors, with a progress bar."""
    if not indices:
        return
    spawn = multiprocessing.get_context("spawn")  # a fork hangs if OpenCV or torch already have threads
    processes = min(os.cpu_count() or 1, -(-len(indices) // CHUNK))
    with spawn.Pool(processes, cv2.setNumThreads, (1,)) as pool:
        results: Iterable[Result] = pool.imap(work, indices, chunksize=CHUNK)
        yield from tqdm(results, title, len(indices), unit=" images")


def store(path: Path, content: bytes) -> None:
    """Write a file that no reader sees incomplete; raise UserError if it cannot be written."""
    unfinished = path.with_name(f"{path.name}.{secrets.token_hex(8)}.partial")
    try:
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        if isinstance(error, PermissionError) and path.exists():
            return  # Windows replaces no file that is being read: another process has stored the same scene
        raise UserError(
            f"{path} cannot be written ({error.strerror}): synthetic scenes are stored there as they are drawn; "
            "free some disk space, or name your own images with --data-root"
        ) from None
