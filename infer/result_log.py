"""The results of many images in one file: a line of JSON for each, added whole when the image is done.

    {"file_name": "a.jpg", "tasks": ["detection"], "image_id": "a", "width": 640, "height": 480, "results": [...]}

`results` are COCO's. A run that was killed leaves at most a torn last line, which the next run drops. With torchrun
each process but the first adds to a file of its own; these are put together at the end, or at the next start.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from pix2seq.errors import UserError
from pix2seq.runtime.console import tell
from pix2seq.runtime.files import flush, replacing, require_regular
from pix2seq.schema import MOST_BYTES

NAME = "results"
SYNC_S = 5.0  # seconds after which lines are on the disk, whatever happens to the machine
BEGIN = b'{"file_name": "'
RESULTS = b', "results": '  # what follows in a line need not be read to know what the line is about


class ResultLog:
    """Adds lines to `path`, or to the part of it that belongs to process `rank` of several."""

    def __init__(self, path: Path, rank: int = 0) -> None:
        self.path = path.with_name(f"{path.stem}-{rank}.jsonl") if rank else path
        self.synced = time.monotonic()

    def add(self, line: Mapping[str, Any]) -> None:
        """Add a line as a whole; raise OSError if there is no room, and leave the file as it was."""
        rest = memoryview(json.dumps(line).encode() + b"\n")
        with self.path.open("ab", buffering=0) as file:
            before = file.seek(0, os.SEEK_END)
            try:
                while rest:
                    rest = rest[file.write(rest) :]
            except OSError:
                file.truncate(before)
                raise
            if time.monotonic() - self.synced > SYNC_S:
                os.fsync(file.fileno())
                self.synced = time.monotonic()

    def close(self) -> None:
        """Have all lines on the disk."""
        if self.path.is_file():
            flush(self.path)


def line_about(
    file_name: str, image_id: int | str, size: tuple[int, int], tasks: Sequence[str], results: Sequence[dict]
) -> dict[str, Any]:
    """What is written about an image of `size` (width, height)."""
    about = {"file_name": file_name, "tasks": list(tasks), "image_id": image_id}
    return {**about, "width": size[0], "height": size[1], "results": list(results)}


def begin(folder: Path, tasks: Sequence[str], go_on: bool) -> tuple[Path, set[str]]:
    """The file for results of `tasks` in `folder`, and the names of the images whose results it holds.

    A file of that name with other tasks' results is left alone. Unless the run is to `go_on`, what an earlier one wrote
    is moved aside. Raises UserError if the file holds anything else.
    """
    path = folder / f"{NAME}.jsonl"
    if path.exists():
        require_regular(path)
    if path.is_file() and {*next(_heads(path), (0, {"tasks": tasks}))[1]["tasks"]} != {*tasks}:
        path = folder / f"{NAME}_{'_'.join(tasks)}.jsonl"
    for file in (path, *_parts(path)):
        _mend(file)
    put_together(path, ())
    if not path.is_file():
        return path, set()
    done = {head["file_name"] for _, head in _heads(path)}
    if go_on:
        return path, done
    before = path.with_name(f"{path.stem}.before.jsonl")
    os.replace(path, before)
    tell(f"{path} held the results of {len(done)} images; it is {before.name} now (--skip-existing goes on)")
    return path, set()


def put_together(path: Path, order: Sequence[str], again: bool = False) -> None:
    """Put the lines of all processes into `path`, as one would have written them: in the `order` of the images' names,
    after those of earlier runs. Of several lines about an image, which there are where some are done `again`, the last
    one is kept."""
    parts = _parts(path)
    if not (parts or again):
        return
    sources = [file for file in (path, *parts) if file.is_file()]
    places = {head["file_name"]: (source, start) for source in sources for start, head in _heads(source)}
    rank = {name: number for number, name in enumerate(order)}
    with contextlib.ExitStack() as stack:
        opened = {source: stack.enter_context(source.open("rb")) for source in sources}
        unfinished = stack.enter_context(replacing(path))
        with unfinished.open("wb") as file:
            for name in sorted(places, key=lambda name: rank.get(name, -1)):
                source, start = places[name]
                opened[source].seek(start)
                file.write(opened[source].readline())
    for part in parts:
        part.unlink()


def _parts(path: Path) -> list[Path]:
    """The files of the other processes, by rank."""
    pattern = re.compile(re.escape(path.stem) + r"-(\d+)\.jsonl")
    found = [(int(match[1]), file) for file in path.parent.glob("*.jsonl") if (match := pattern.fullmatch(file.name))]
    return [file for _, file in sorted(found)]


def _mend(path: Path) -> None:
    """Drop a last line that was not written to its end."""
    if not path.is_file():
        return
    end, torn = 0, b""
    for raw in _lines(path):
        end, torn = (end + len(raw), b"") if raw.endswith(b"\n") else (end, raw)
    if torn:
        if not torn.startswith(BEGIN[: len(torn)]):
            raise _no_result(path)
        os.truncate(path, end)
        tell(f"{path}: its last line was torn, and is dropped")


def _heads(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """For each whole line where it begins, in bytes, and what it is about; raise UserError at one that is no result."""
    start = 0
    for number, raw in enumerate(_lines(path), 1):
        if not raw.endswith(b"\n"):
            return
        about, found, _ = raw.partition(RESULTS)
        try:
            head = json.loads(about + b"}")
            fine = found and all(isinstance(text, str) for text in (head["file_name"], *head["tasks"]))
        except (ValueError, TypeError, KeyError, RecursionError):
            fine = False
        if not fine:
            raise _no_result(path, number)
        yield start, head
        start += len(raw)


def _lines(path: Path) -> Iterator[bytes]:
    """The lines of a file; raise UserError if one is longer than any result."""
    with path.open("rb") as file:
        while raw := file.readline(MOST_BYTES):
            if len(raw) == MOST_BYTES:
                raise _no_result(path)
            yield raw


def _no_result(path: Path, number: int | None = None) -> UserError:
    place = f", line {number}," if number else " holds what"
    return UserError(f"{path}{place} is no result of an image; move the file to another place")
