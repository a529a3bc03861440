"""Fetch of a checkpoint on a server only the bytes that its model is made of.

They are about a third of the whole: the index says where the tensors are, and the rest is the optimizer's state. Where
a server sends no parts of files, whole ones come instead.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np

from pix2seq.errors import UserError
from pix2seq.runtime.files import write_whole
from pix2seq.runtime.transfer import Missing, NoRanges, Range, fetch, fetch_text
from pix2seq.weights.tensor_bundle import Bundle, Damaged, Entry, read_range
from pix2seq.weights.tf_checkpoint import OBJECT_GRAPH, STATE, ObjectCheckpoint, newest

GAP_BYTES = 1 << 20  # between two tensors: less is fetched with them, since a request of its own takes longer
CONFIG = "config.json"


class Pieces:
    """Ranges of a checkpoint's data files; those of one download stand one after the other in a file."""

    def __init__(self) -> None:
        self._places: list[tuple[int, Range, Path, int]] = []  # shard, range, file, position in it

    def add(self, shard: int, ranges: Sequence[Range], path: Path) -> None:
        """The `ranges` of a shard are in the file `path`."""
        position = 0
        for start, end in ranges:
            self._places.append((shard, (start, end), path, position))
            position += end - start

    @property
    def size(self) -> int:
        """The bytes of all files."""
        return sum(path.stat().st_size for path in {path for *_, path, _ in self._places})

    def read(self, shard: int, start: int, size: int) -> np.ndarray:
        """`size` bytes (size,) uint8 of a shard from `start` on; ValueError if they are not there."""
        if not size:
            return np.empty(0, np.uint8)
        for number, (first, end), path, position in self._places:
            if number == shard and first <= start and start + size <= end:
                return read_range(path, position + start - first, size)
        raise ValueError(f"bytes {start:,} to {start + size:,} were not fetched")


def fetch_model(url: str, folder: Path) -> ObjectCheckpoint:
    """The newest checkpoint below `url`, of which the tensors of the object `model` are now in `folder`.

    What an earlier call left there is not fetched again. Prints what was fetched of how much.
    """
    state = folder / STATE
    name = newest(state.read_text(encoding="utf-8")) if state.is_file() else ""
    if not name:
        text = fetch_text(f"{url}/{STATE}")
        name = _newest(text, url)
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(state, text)
    pieces = Pieces()
    bundle = _fetch_index(url, folder, name, pieces)
    _fetch_config(url, folder)
    graph = [entry for key, entry in bundle.entries.items() if key == OBJECT_GRAPH]
    _fetch_entries(url, bundle, pieces, "graph", graph)
    checkpoint = ObjectCheckpoint(bundle)
    needed = [bundle.entries[variable.key] for variable in checkpoint.variables("model")]
    _fetch_entries(url, bundle, pieces, "model", needed)
    whole = sum(bundle.shard_bytes(shard) for shard in range(bundle.shards))
    print(f"{url}: fetched {pieces.size / 1e6:,.1f} of {whole / 1e6:,.1f} MB", file=sys.stderr)
    return checkpoint


def fetch_files(url: str, folder: Path) -> None:
    """Download all files of the newest checkpoint below `url` into `folder`.

    `checkpoint`, which names it, is written last: where it is, all others are complete and nothing is asked for.
    """
    state = folder / STATE
    if state.is_file():
        return
    text = fetch_text(f"{url}/{STATE}")
    bundle = _fetch_index(url, folder, _newest(text, url), Pieces())
    for shard in range(bundle.shards):
        path = bundle.shard_path(shard)
        fetch(f"{url}/{path.name}", path)
        _check_size(f"{url}/{path.name}", path, bundle.shard_bytes(shard))
    _fetch_config(url, folder)
    write_whole(state, text)


def byte_ranges(entries: Iterable[Entry], gap: int = GAP_BYTES) -> list[Range]:
    """The ranges of a shard that hold `entries`, in order; what is less than `gap` bytes apart is one range."""
    ranges: list[Range] = []
    for entry in sorted(entries, key=lambda entry: entry.start):
        if not entry.size:
            continue
        if ranges and entry.start - ranges[-1][1] <= gap:
            ranges[-1] = ranges[-1][0], max(ranges[-1][1], entry.end)
        else:
            ranges.append((entry.start, entry.end))
    return ranges


def _fetch_index(url: str, folder: Path, name: str, pieces: Pieces) -> Bundle:
    index = folder / f"{name}.index"
    fetch(f"{url}/{index.name}", index)
    try:
        return Bundle(index, pieces.read)
    except UserError:
        index.unlink()  # so that the next call fetches it again
        raise


def _fetch_config(url: str, folder: Path) -> None:
    with suppress(Missing):  # folders of multi-task models have none
        fetch(f"{url}/{CONFIG}", folder / CONFIG)
        if not (folder / CONFIG).read_bytes().lstrip().startswith(b"{"):  # such as the web page of a missing file
            (folder / CONFIG).unlink()
            print(f"{url}/{CONFIG} is no JSON object, and is left out", file=sys.stderr)


def _fetch_entries(url: str, bundle: Bundle, pieces: Pieces, name: str, entries: Sequence[Entry]) -> None:
    """Fetch what holds `entries` to a file `….NAME` for each shard, or all of a shard where there is no other way."""
    for shard in sorted({entry.shard for entry in entries}):
        data = bundle.shard_path(shard)
        part = data.with_name(f"{data.name}.{name}")
        ranges = byte_ranges(entry for entry in entries if entry.shard == shard)
        if ranges and not data.is_file():
            try:
                fetch(f"{url}/{data.name}", part, ranges)
            except NoRanges:
                print(f"{url} sends no parts of files: fetching all of {data.name}", file=sys.stderr)
                fetch(f"{url}/{data.name}", data)
                _check_size(f"{url}/{data.name}", data, bundle.shard_bytes(shard))
        if data.is_file():
            pieces.add(shard, [(0, data.stat().st_size)], data)
        else:
            pieces.add(shard, ranges, part)


def _check_size(url: str, data: Path, least: int) -> None:
    """Remove a data file, and raise Damaged, if it has fewer bytes than the index says."""
    size = data.stat().st_size
    if size < least:
        data.unlink()
        raise Damaged(f"{url} has {size:,} bytes and should have {least:,}: it is cut, or another file, on the server")


def _newest(state: str, url: str) -> str:
    """The name `ckpt-N` from what the server has as the checkpoint's state."""
    name = newest(state)
    if not name:
        raise UserError(f"{url}/{STATE} names no checkpoint; expected 'model_checkpoint_path: \"ckpt-N\"'")
    return name
