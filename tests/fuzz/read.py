"""Feed a reader with files that a coverage-guided fuzzer makes (`make fuzz`; needs `pip install atheris`).

    python tests/fuzz/read.py checkpoint_index -max_total_time=600 -max_len=8192

The readers: `checkpoint_index`, `settings`, `metadata` (most of which msgspec reads, where coverage is not seen).

A file is read, or refused with a UserError; any other error, a hang or more than 2 GB is a finding.
"""

import json
import struct
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris
import numpy as np

with atheris.instrument_imports(include=["pix2seq", "yaml", "json"]):
    import google_crc32c

    from pix2seq.config import CFG, to_json
    from pix2seq.config_file import read_settings
    from pix2seq.errors import UserError
    from pix2seq.metadata import read_metadata
    from pix2seq.runtime.paths import ROOT
    from pix2seq.weights.sorted_table import FOOTER_BYTES, MAGIC, masked
    from pix2seq.weights.tensor_bundle import Bundle

FOLDER = Path(tempfile.mkdtemp(prefix="pix2seq-fuzz-"))
FIELDS = ("cfg", "class_names", "text", "keypoints", "category_ids", "step", "decoding", "domain", "words")
POINTS = {"names": ["l", "r"], "flip": [1, 0], "bones": [[0, 1]], "class_ids": [1], "sigmas": [0.1, 0.1]}
GOOD = {
    "format": "pix2seq-toolkit",
    "cfg": to_json(CFG()),
    "class_names": json.dumps({"1": "cat"}),
    "text": json.dumps({"words": ["<unk>", "a"]}),
    "keypoints": json.dumps(POINTS),
    "decoding": json.dumps({"top_k": 5}),
    "category_ids": json.dumps({"1": 17}),
    "step": "3",
    "domain": "photographs",
    "words": json.dumps(["<unk>", "a"]),  # in place of text, by the first version
}


def metadata(data: bytes) -> None:
    """A weights file one of whose fields, or whose whole header, is made of `data`."""
    choice, rest = data[:1], data[1:]
    if choice and choice[0] < len(FIELDS):
        written = GOOD | {FIELDS[choice[0]]: rest.decode(errors="replace")}
        rest = json.dumps({"__metadata__": written}).encode()
    path = FOLDER / "w.safetensors"
    path.write_bytes(len(rest).to_bytes(8, "little") + rest)
    read_metadata(path)


def settings(data: bytes) -> None:
    """A file of settings in YAML, or in JSON."""
    path = FOLDER / ("own.json" if data[:1] == b"{" else "own.yaml")
    path.write_bytes(data)
    read_settings(str(path))


def checkpoint_index(data: bytes) -> None:
    """The index of a TensorFlow checkpoint with a block of `data`, and right checksums so that it is read."""
    table = bytearray()
    filters, entries = _append(table, b""), _append(table, data[1:])
    listed = b"\0\x01" + _varint(len(entries)) + b"z" + entries  # a whole key of one byte
    index = _append(table, listed) if data[:1] != b"i" else entries
    path = FOLDER / "ckpt-1.index"
    path.write_bytes(bytes(table) + (filters + index).ljust(FOOTER_BYTES - 8, b"\0") + struct.pack("<Q", MAGIC))
    bundle = Bundle(path, lambda shard, start, size: np.zeros(min(size, 1 << 16), dtype=np.uint8))
    for name in list(bundle.entries)[:20]:
        bundle.read(name)


def _append(table: bytearray, content: bytes) -> bytes:
    """Add a block to a table; where it is."""
    block, start = content + struct.pack("<I", 0), len(table)  # no positions of whole keys
    table += block + b"\0" + struct.pack("<I", masked(google_crc32c.value(block + b"\0")))
    return _varint(start) + _varint(len(block))


def _varint(number: int) -> bytes:
    parts = bytearray()
    while number > 127:
        parts.append(number & 127 | 128)
        number >>= 7
    return bytes([*parts, number])


def seeds(name: str) -> Path:
    """A folder of inputs to begin with."""
    folder = FOLDER / "seeds"
    folder.mkdir()
    if name == "metadata":
        for place, field in enumerate(FIELDS):
            (folder / field).write_bytes(bytes([place]) + GOOD[field].encode())
        header = json.dumps({"__metadata__": GOOD, "a": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}})
        (folder / "header").write_bytes(b"\xff" + header.encode())
    elif name == "settings":
        for path in (ROOT / "recipes").glob("*.yaml"):
            (folder / path.name).write_bytes(path.read_bytes())
        (folder / "cfg.json").write_text(to_json(CFG()), encoding="utf-8")
    else:
        checksum = struct.pack("<I", masked(google_crc32c.value(bytes(8))))
        entry = b"\x08\x01\x12\x04\x12\x02\x08\x02\x28\x08\x35" + checksum  # two numbers of four bytes
        (folder / "entry").write_bytes(b"e\0\0\x02\x08\x01\0\x01" + bytes([len(entry)]) + b"a" + entry)
    return folder


def refused_is_right(read: Callable[[bytes], None]) -> Callable[[bytes], None]:
    """`read`, for which a UserError is no finding."""

    def tried(data: bytes) -> None:
        try:
            read(data)
        except UserError as error:
            assert len(str(error)) < 4000, "an error of many words"

    return tried


if __name__ == "__main__":
    targets = {"metadata": metadata, "settings": settings, "checkpoint_index": checkpoint_index}
    target = targets[sys.argv.pop(1)]
    limits = ["-rss_limit_mb=2048", "-timeout=20", f"-artifact_prefix={FOLDER}/"]
    atheris.Setup([*sys.argv, *limits, str(seeds(target.__name__))], refused_is_right(target))
    atheris.Fuzz()
