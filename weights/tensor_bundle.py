"""Read TensorFlow's tensor bundles: an index of names, and data files ("shards") that hold the numbers.

After tensorflow/core/util/tensor_bundle and tensorflow/core/protobuf/tensor_bundle.proto. Every checksum that is cheap
to compute is compared.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

import google_crc32c
import numpy as np

from pix2seq.errors import UserError
from pix2seq.weights.protobuf import fields, numbers, texts, varint
from pix2seq.weights.sorted_table import masked, read_table

VERSION = 1  # of the bundles that are read here
FAST_CHECKSUMS = google_crc32c.implementation == "c"
SLOW_LIMIT_BYTES = 1 << 20  # without a C library, the checksum of a larger tensor takes seconds
BFLOAT16, STRING = 14, 7
DTYPES = {
    1: "<f4",
    2: "<f8",
    3: "<i4",
    4: "u1",
    5: "<i2",
    6: "i1",
    STRING: "object",
    9: "<i8",
    10: "?",
    BFLOAT16: "<u2",  # widened to float32, since NumPy has none
    17: "<u2",
    19: "<f2",
    22: "<u4",
    23: "<u8",
}  # by tensorflow/core/framework/types.proto
REFUSED = {8: "complex64", 18: "complex128", 11: "qint8", 12: "quint8", 13: "qint32", 15: "qint16", 16: "quint16"}

ReadBytes = Callable[[int, int, int], np.ndarray]  # shard, first byte, number of bytes → (bytes,) uint8


@dataclass(frozen=True)
class Entry:
    """Where a tensor is: `size` bytes from `start` on in a shard. `checksum` is masked; `dtype` is a key of DTYPES."""

    dtype: int
    shape: tuple[int, ...]
    shard: int
    start: int
    size: int
    checksum: int
    is_partitioned: bool

    @property
    def end(self) -> int:
        """The position after the last byte."""
        return self.start + self.size


class Damaged(UserError):
    """Bytes of a checkpoint are not those that were written."""


class Bundle:
    """The tensors of an index file by name. `read_bytes` reads the shards; None: they are whole, and beside the index.

    Raises UserError, here and when a tensor is read, for files that are damaged, cut or missing, and for what the
    official models do not have: compressed blocks, big-endian files, partitioned, complex and quantised tensors.
    """

    def __init__(self, index: Path, read_bytes: ReadBytes | None = None) -> None:
        self.index = index
        with self._readable(index):
            table = read_table(index.read_bytes())
            self.shards = _count_shards(table.pop(b"", b""))
            names = {key.decode(errors="surrogateescape"): value for key, value in table.items()}
            self.entries = {name: _read_entry(value, self.shards) for name, value in names.items()}
        self._read_bytes = read_bytes or self._read_whole_shard
        if read_bytes is None:
            self._check_shards()

    def shard_path(self, number: int) -> Path:
        """The data file beside the index."""
        return self.index.with_name(f"{self.index.stem}.data-{number:05}-of-{self.shards:05}")

    def read(self, name: str) -> np.ndarray:
        """The tensor `name`: bfloat16 as float32, strings as an array of bytes objects."""
        entry = self.entries[name]
        self._check_kind(name, entry)
        with self._readable(self.shard_path(entry.shard)):
            data = self._read_bytes(entry.shard, entry.start, entry.size)
            if (FAST_CHECKSUMS or entry.size <= SLOW_LIMIT_BYTES) and not self._is_intact(entry, data):
                raise ValueError(f"the checksum of {name} is another one")
            if entry.dtype == STRING:
                return np.array(_read_strings(data.tobytes(), entry), dtype=object).reshape(entry.shape)
            numbers = data.view(DTYPES[entry.dtype]).reshape(entry.shape)
        return numbers if entry.dtype != BFLOAT16 else (numbers.astype("<u4") << 16).view("<f4")

    @staticmethod
    def _is_intact(entry: Entry, data: np.ndarray) -> bool:
        if entry.dtype == STRING:
            return masked(_checksum_of_strings(data.tobytes(), entry)) == entry.checksum
        return masked(google_crc32c.value(data)) == entry.checksum

    def _check_kind(self, name: str, entry: Entry) -> None:
        if entry.is_partitioned:
            raise UserError(f"{name} in {self.index} is partitioned; save the checkpoint again with whole variables")
        if entry.dtype not in DTYPES:
            kind = REFUSED.get(entry.dtype, f"number {entry.dtype}")
            raise UserError(f"{name} in {self.index} has TensorFlow's type {kind}; expected real numbers or texts")

    def _read_whole_shard(self, shard: int, start: int, size: int) -> np.ndarray:
        return read_range(self.shard_path(shard), start, size)

    def _check_shards(self) -> None:
        """Raise UserError if a shard is missing or ends before its last tensor."""
        for shard in sorted({entry.shard for entry in self.entries.values()}):
            path, size = self.shard_path(shard), self.shard_bytes(shard)
            if not path.is_file():
                raise UserError(f"{path} is missing, one of {self.shards} data files; put it beside {self.index.name}")
            if path.stat().st_size < size:
                raise UserError(f"{path} is cut: {path.stat().st_size:,} of {size:,} bytes; download it again")

    def shard_bytes(self, shard: int) -> int:
        """The number of bytes that a data file has at least."""
        return max((entry.end for entry in self.entries.values() if entry.shard == shard), default=0)

    @contextmanager
    def _readable(self, path: Path) -> Iterator[None]:
        try:
            yield
        except (OSError, ValueError, TypeError) as error:
            raise Damaged(f"{path} cannot be read ({_reason(error)}); download it again") from None


def read_range(path: Path, start: int, size: int) -> np.ndarray:
    """`size` bytes (size,) uint8 of a file from `start` on; ValueError if it is shorter."""
    data = np.empty(size, np.uint8)
    with path.open("rb") as file:
        file.seek(start)
        count = file.readinto(data)
    if count < size:
        raise ValueError(f"it ends after byte {start + count:,} of at least {start + size:,}")
    return data


def _count_shards(header: bytes) -> int:
    """The number of data files, from a BundleHeaderProto."""
    found = numbers(header)
    if found.get(2, 0):
        raise ValueError("it was written on a big-endian computer, whose byte order is not read here")
    needed = numbers(texts(header).get(3, b"")).get(2, 0)
    if needed > VERSION:
        raise ValueError(f"it needs a reader of version {needed}, and this one has {VERSION}")
    return found.get(1, 0)


def _read_entry(message: bytes, shards: int) -> Entry:
    """A BundleEntryProto; ValueError unless its numbers fit each other, and the number of data files."""
    found, shape = numbers(message), texts(message).get(2, b"")
    partitioned = any(number == 7 for number, _ in fields(message))
    dims = [numbers(dim).get(1, 0) for number, dim in fields(shape) if number == 2 and isinstance(dim, bytes)]
    dtype, shard, start, size, checksum = (found.get(number, 0) for number in (1, 3, 4, 5, 6))
    if max(*dims, start, size, 0) >> 63:
        raise ValueError("a size or a position is negative")
    if shard >= shards:
        raise ValueError(f"it names data file {shard}, and there are {shards}, counted from 0")
    entry = Entry(dtype, tuple(dims), shard, start, size, checksum, partitioned)
    width = np.dtype(DTYPES[entry.dtype]).itemsize if entry.dtype in DTYPES and entry.dtype != STRING else 0
    count = int(np.prod(entry.shape, dtype=object))
    if width and not partitioned and count * width != entry.size:
        raise ValueError(f"{entry.size} bytes are not the size of a tensor {list(entry.shape)}")
    return entry


def _string_sizes(data: bytes, entry: Entry) -> tuple[list[int], int]:
    """The length of each string of a tensor, and the position after these numbers, where their checksum is."""
    sizes, at = [], 0
    for _ in range(int(np.prod(entry.shape, dtype=object))):
        size, at = varint(data, at)
        sizes.append(size)
    return sizes, at


def _read_strings(data: bytes, entry: Entry) -> list[bytes]:
    sizes, at = _string_sizes(data, entry)
    ends = list(accumulate([at + 4, *sizes]))
    if ends[-1] != len(data):
        raise ValueError("the lengths of texts do not fit")
    return [data[start:end] for start, end in pairwise(ends)]


def _checksum_of_strings(data: bytes, entry: Entry) -> int:
    """TensorFlow's checksum of a string tensor: the lengths count as numbers of four bytes, or of eight if need be."""
    sizes, at = _string_sizes(data, entry)
    lengths = b"".join(size.to_bytes(4 if size < 1 << 32 else 8, "little") for size in sizes)
    return google_crc32c.extend(google_crc32c.value(lengths), data[at:])


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
