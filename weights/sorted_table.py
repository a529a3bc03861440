"""Read a table of sorted keys in LevelDB's format, of which TensorFlow makes the index of a checkpoint.

https://github.com/google/leveldb/blob/main/doc/table_format.md
"""

from __future__ import annotations

import struct

import google_crc32c

from pix2seq.weights.protobuf import varint

MAGIC = 0xDB4775248B80FB57
FOOTER_BYTES = 48
TRAILER_BYTES = 5  # after a block: its compression and its checksum
COMPRESSIONS = {1: "Snappy", 2: "Zstandard"}
MOST_KEY_BYTES = 4096  # shared beginnings could make a small file's keys fill the memory


def masked(checksum: int) -> int:
    """A CRC-32C as files store it, so that the checksum of data that hold checksums stays meaningful."""
    return ((checksum >> 15 | checksum << 17) + 0xA282EAD8) & 0xFFFFFFFF


def read_table(data: bytes) -> dict[bytes, bytes]:
    """Keys and values of a table in LevelDB's format; ValueError if it is none or is damaged."""
    if len(data) < FOOTER_BYTES or struct.unpack("<Q", data[-8:])[0] != MAGIC:
        page = data[:200].lstrip().lower()
        kind = "a web page" if page.startswith((b"<!doctype", b"<html", b"<?xml")) else "no index of a checkpoint"
        raise ValueError(f"it is {kind}, or is cut")
    footer = data[-FOOTER_BYTES:]
    start, size, at = _block_handle(footer, 0)
    _read_block(data, start, size)  # an index of filters, which bundles do not have: empty, but checked
    start, size, _ = _block_handle(footer, at)
    table: dict[bytes, bytes] = {}
    end = 0
    for handle in _read_block(data, start, size).values():
        start, size, _ = _block_handle(handle, 0)
        if start < end:
            raise ValueError("its blocks overlap")
        end = start + size
        table |= _read_block(data, start, size)
    return table


def _block_handle(data: bytes, at: int) -> tuple[int, int, int]:
    """Start and size of a block, and the position after these two numbers."""
    start, at = varint(data, at)
    size, at = varint(data, at)
    return start, size, at


def _read_block(data: bytes, start: int, size: int) -> dict[bytes, bytes]:
    """Keys and values of a block. A key is stored without the beginning that it shares with the key before it."""
    block, trailer = data[start : start + size], data[start + size : start + size + TRAILER_BYTES]
    if len(trailer) < TRAILER_BYTES or size < 4:
        raise ValueError("it is cut")
    compression, checksum = struct.unpack("<BI", trailer)
    if masked(google_crc32c.value(block + trailer[:1])) != checksum:
        raise ValueError("a checksum is another one")
    if compression:
        raise ValueError(f"its blocks are compressed with {COMPRESSIONS.get(compression, compression)}, not plain")
    end = size - 4 - 4 * struct.unpack("<I", block[-4:])[0]  # there, positions of whole keys begin
    entries, at, key = {}, 0, b""
    while at < end:
        shared, at = varint(block, at)
        rest, at = varint(block, at)
        length, at = varint(block, at)
        if shared > len(key) or shared + rest > MOST_KEY_BYTES:
            raise ValueError("a key is too long")
        key = key[:shared] + block[at : at + rest]
        at += rest + length
        entries[key] = block[at - length : at]
    if at != end:
        raise ValueError("an entry is cut")
    return entries
