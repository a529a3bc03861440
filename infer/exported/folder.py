"""A folder with an exported model: two ONNX graphs, and `model.json` that says what they mean.

The folder may be a stranger's: sizes are bounded, the description goes through the schema door, and a graph that names
another file is refused before the runtime sees it. Nothing here needs torch, onnx or onnxruntime.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta, Raw, Struct

from pix2seq.config import DECODING, InferCFG
from pix2seq.errors import UserError
from pix2seq.metadata import Metadata, typed
from pix2seq.schema import decode, read_bytes

ENCODER, STEP, DESCRIPTION = "encoder.onnx", "step.onnx", "model.json"
GRAPHS = (ENCODER, STEP)
FORMAT = "pix2seq-toolkit-onnx"
MOST_GRAPH_BYTES = 2**31  # what a protobuf can hold
EXTERNAL = b"location"  # the key under which a tensor of ONNX names a file that holds its numbers; our graphs have none
FIELDS = ("cfg", "class_names", "text", "keypoints", "category_ids", "step", "decoding")
WORDS = ("domain", "licence")
Digest = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class Description(Struct):
    """`model.json`. The fields of a weights file's metadata are read as those are (`metadata.typed`); `graphs` are the
    SHA-256 of the files, so that files of two exports are never mixed.

    What is not named here is for other programs, which know no defaults of this toolkit (see `describe`).
    """

    format: str
    graphs: dict[str, Digest]
    cfg: Raw
    class_names: Raw
    text: Raw
    keypoints: Raw
    category_ids: Raw
    step: Raw
    decoding: Raw
    domain: str = ""
    licence: str = ""


@dataclass(frozen=True)
class Exported:
    """What an exported model says about itself, and its graphs by file name."""

    metadata: Metadata
    graphs: Mapping[str, bytes]


def describe(
    described: Mapping[str, str], graphs: Mapping[str, bytes], vocabulary: Mapping[str, Any], settings: InferCFG
) -> str:
    """The text of `model.json` for the metadata of a weights file, as `models.weights.metadata_of` gives them.

    For other programs it also has every setting of decoding (`inference`) and what token ids mean (`vocabulary`).
    """
    values: dict[str, Any] = {"format": FORMAT}
    values["graphs"] = {name: hashlib.sha256(content).hexdigest() for name, content in graphs.items()}
    values |= {name: json.loads(described[name]) for name in FIELDS} | {name: described[name] for name in WORDS}
    values["inference"] = {name: getattr(settings, name) for name in DECODING}
    values["vocabulary"] = vocabulary
    return json.dumps(values, indent=1)


def read_exported(folder: Path) -> Exported:
    """The exported model in a folder; raise UserError, which names file and field, for what is none."""
    if not (folder / DESCRIPTION).is_file():
        raise UserError(
            f"{folder} has no {DESCRIPTION}: expected a weights file, or a folder that infer/export_onnx.py wrote"
        )
    text = _read(folder / DESCRIPTION)
    found = decode(text, Description, str(folder / DESCRIPTION), "export the model again")
    if found.format != FORMAT:
        raise UserError(f"{folder / DESCRIPTION} was not written by infer/export_onnx.py; name a folder that it wrote")
    written = {name: bytes(getattr(found, name)) for name in FIELDS} | {name: getattr(found, name) for name in WORDS}
    try:
        metadata = Metadata(**typed(written), shapes={}, kinds={})
    except UserError as error:
        raise UserError(f"the settings in {folder / DESCRIPTION} cannot be used: {error}") from None
    return Exported(metadata, {name: _graph(folder / name, found.graphs.get(name, "")) for name in GRAPHS})


def _graph(path: Path, digest: str) -> bytes:
    """A graph that is what the description says, and whose numbers are all in the file."""
    content = _read(path, MOST_GRAPH_BYTES)
    if hashlib.sha256(content).hexdigest() != digest:
        raise UserError(f"{path} is not the graph that {DESCRIPTION} describes; export the model again")
    if EXTERNAL in content:
        raise UserError(f"{path} names another file for its numbers, which is never opened; export the model again")
    return content


def _read(path: Path, *most: int) -> bytes:
    try:
        return read_bytes(path, *most)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); export the model again") from None
