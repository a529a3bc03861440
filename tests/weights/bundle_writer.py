"""Write checkpoints as TensorFlow does: what the reader in `weights/` reads, for tests that have no TensorFlow."""

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import google_crc32c
import numpy as np

from pix2seq.weights.sorted_table import MAGIC, masked, read_table

TYPES = {
    "float32": 1,
    "float64": 2,
    "int32": 3,
    "uint8": 4,
    "int16": 5,
    "int8": 6,
    "object": 7,
    "complex64": 8,
    "int64": 9,
    "bool": 10,
    "uint16": 17,
    "float16": 19,
    "uint32": 22,
    "uint64": 23,
}
BFLOAT16, QINT8 = 14, 11
VALUE = "/.ATTRIBUTES/VARIABLE_VALUE"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"
RESTART_INTERVAL = 16
Array = np.ndarray | Callable[[], np.ndarray]  # or what makes it, when it is written


def number(value: int) -> bytes:
    """A varint."""
    parts = []
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    return bytes([*parts, value])


def field(tag: int, value: int | bytes) -> bytes:
    """A field of a protobuf message: a number that is not 0, or bytes."""
    if isinstance(value, bytes):
        return number(tag << 3 | 2) + number(len(value)) + value
    return number(tag << 3) + number(value) if value else b""


def block(entries: Mapping[bytes, bytes]) -> bytes:
    """A block of a table; every sixteenth key is whole, the others share their beginning with the one before."""
    content, restarts, before = b"", [], b""
    for count, (key, value) in enumerate(entries.items()):
        shared = 0
        if count % RESTART_INTERVAL == 0:
            restarts.append(len(content))
        else:
            while shared < min(len(before), len(key)) and before[shared] == key[shared]:
                shared += 1
        content += number(shared) + number(len(key) - shared) + number(len(value)) + key[shared:] + value
        before = key
    return content + struct.pack(f"<{len(restarts) or 1}I", *(restarts or [0])) + struct.pack("<I", len(restarts) or 1)


def table(entries: Mapping[bytes, bytes], entries_a_block: int, compression: int = 0) -> bytes:
    """The bytes of an index file."""
    keys = sorted(entries)
    parts = [keys[first : first + entries_a_block] for first in range(0, len(keys), entries_a_block)]
    blocks = [block({key: entries[key] for key in part}) for part in parts]
    return table_of(blocks, [part[-1] for part in parts], compression)


def table_of(blocks: Sequence[bytes], last: Sequence[bytes] = (), compression: int = 0, repeated: int = 1) -> bytes:
    """The bytes of an index file with some blocks, whose `last` keys are these (numbers, if none are given); each is
    listed so many times."""
    data = b""

    def add(content: bytes) -> bytes:
        nonlocal data
        handle = number(len(data)) + number(len(content))
        kind = bytes([compression])
        data += content + kind + struct.pack("<I", masked(google_crc32c.value(content + kind)))
        return handle

    handles: dict[bytes, bytes] = {}
    for place, content in enumerate(blocks):
        handle = add(content)
        name = last[place] if last else b"%09d" % place
        handles |= {name + b"+" * copy: handle for copy in range(repeated)}
    footer = add(block({})) + add(block(handles))
    return data + footer.ljust(40, b"\0") + struct.pack("<Q", MAGIC)


def encoded(values: np.ndarray) -> tuple[bytes, int]:
    """The bytes of a tensor in a data file, and their checksum."""
    if values.dtype != object:
        content = np.ascontiguousarray(values).tobytes()
        return content, google_crc32c.value(content)
    texts = values.ravel().tolist()
    checksum = google_crc32c.value(b"".join(struct.pack("<I", len(text)) for text in texts))
    end = struct.pack("<I", masked(checksum)) + b"".join(texts)
    return b"".join(number(len(text)) for text in texts) + end, google_crc32c.extend(checksum, end)


def write_bundle(
    prefix: Path,
    tensors: Mapping[str, Array],
    *,
    shards: int = 1,
    entries_a_block: int = 40,
    types: Mapping[str, int] | None = None,
    partitioned: tuple[str, ...] = (),
    header: bytes = b"",
    compression: int = 0,
) -> None:
    """Write `prefix.index` and data files. `types` are TensorFlow's types of tensors whose dtype NumPy lacks.

    Of the `partitioned` tensors there is no more than the entry that says so. `header` are further fields of the
    index's header.
    """
    version = field(1, 1)
    entries = {b"": field(1, shards) + field(3, version) + header}
    paths = [prefix.with_name(f"{prefix.name}.data-{shard:05}-of-{shards:05}") for shard in range(shards)]
    files = [path.open("wb") for path in paths]
    for place, name in enumerate(sorted(tensors)):
        values = tensors[name]
        values = np.asarray(values() if callable(values) else values)
        content, checksum = encoded(values)
        shard, kind = place % shards, (types or {}).get(name) or TYPES[str(values.dtype)]
        shape = b"".join(field(2, field(1, side)) for side in values.shape)
        parts = field(1, kind) + field(2, shape) + field(3, shard) + field(4, files[shard].tell())
        parts += field(5, len(content)) + number(6 << 3 | 5) + struct.pack("<I", masked(checksum))
        if name in partitioned:
            parts += field(7, field(1, field(1, 0) + field(2, 2)))
        entries[name.encode()] = parts
        files[shard].write(content)
    for file in files:
        file.close()
    prefix.with_name(f"{prefix.name}.index").write_bytes(table(entries, entries_a_block, compression))


def rewrite(prefix: Path, changes: Mapping[bytes, bytes]) -> None:
    """Put other values into the index of a bundle, whose checksums are right."""
    index = prefix.with_name(f"{prefix.name}.index")
    index.write_bytes(table(read_table(index.read_bytes()) | changes, 40))


def object_graph(keys: Mapping[str, str]) -> np.ndarray:
    """A TrackableObjectGraph of the objects that `keys` names: path `attribute/attribute/…` to checkpoint key."""
    children: list[dict[str, int]] = [{}]
    attributes: dict[int, str] = {}
    for path, key in keys.items():
        node = 0
        for name in path.split("/"):
            if name not in children[node]:
                children.append({})
                children[node][name] = len(children) - 1
            node = children[node][name]
        attributes[node] = key
    graph = b""
    for node, inside in enumerate(children):
        content = b"".join(
            field(1, field(1, child) + field(2, name.replace(".S", "/").encode())) for name, child in inside.items()
        )
        if node in attributes:
            content += field(2, field(1, b"VARIABLE_VALUE") + field(3, attributes[node].encode()))
        graph += field(1, content)
    return np.array(graph, dtype=object)


def write_checkpoint(
    prefix: Path, model: Mapping[str, Array], others: Mapping[str, Array] | None = None, **options
) -> None:
    """An object checkpoint of a model's variables by path, and of other objects' (`optimizer/…`).

    An optimizer's slots (`model/…/.OPTIMIZER_SLOT/…`) are no part of the model, though their keys begin like its own.
    """
    variables = {f"model/{path}": array for path, array in model.items()} | dict(others or {})
    keys = {path: path + VALUE for path in variables}
    tensors = {keys[path]: array for path, array in variables.items()}
    objects = {path: key for path, key in keys.items() if ".OPTIMIZER_SLOT" not in path}
    write_bundle(prefix, tensors | {GRAPH: object_graph(objects)}, **options)
