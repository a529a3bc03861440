"""Protocol buffers' wire format, as far as checkpoints need it (https://protobuf.dev/programming-guides/encoding)."""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5


def varint(data: bytes, at: int) -> tuple[int, int]:
    """The unsigned number of up to 64 bits that begins at `at`, and the position after it; ValueError if it is cut or
    has more."""
    value = 0
    for place, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << 7 * place
        if byte < 128:
            if value >> 64:
                raise ValueError("a number has more than 64 bits")
            return value, at + place + 1
    raise ValueError("a number is cut")


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field: an unsigned int, or the bytes of a text or of a message inside this one."""
    at = 0
    while at < len(message):
        tag, at = varint(message, at)
        kind = tag & 7
        if kind == VARINT:
            value, at = varint(message, at)
        elif kind in (FIXED64, FIXED32):
            end = at + (8 if kind == FIXED64 else 4)
            value, at = int.from_bytes(message[at:end], "little"), end
        elif kind == BYTES:
            size, at = varint(message, at)
            value, at = message[at : at + size], at + size
        else:
            raise ValueError(f"a field has the unknown kind {kind}")
        if at > len(message):
            raise ValueError("a field is cut")
        yield tag >> 3, value


def numbers(message: bytes) -> dict[int, int]:
    """The fields that are numbers; another kind of value than a reader knows is skipped, as the format has it."""
    return {number: value for number, value in fields(message) if isinstance(value, int)}


def texts(message: bytes) -> dict[int, bytes]:
    """The fields that are texts or messages."""
    return {number: value for number, value in fields(message) if isinstance(value, bytes)}
