"""A weights file describes itself: tensors, and as metadata the whole CFG, class names and caption vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pix2seq.config import CFG, to_json
from pix2seq.errors import UserError, plain
from pix2seq.metadata import FORMAT, Metadata, read_metadata
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime.files import replacing
from pix2seq.runtime.finite import require_finite
from pix2seq.runtime.light_imports import shapes_alone

# How safetensors names the types that floating-point and other tensors may be stored as.
FLOATS, INTEGERS = {"F16", "BF16", "F32", "F64"}, {"I64", "I32", "I16", "I8", "U8", "BOOL"}


@dataclass(frozen=True)
class Weights:
    """A model with what is needed to use it: `class_names` by id, and `text`, the description of its caption
    vocabulary (see `tokenizers.captioning.read_text`).

    `keypoints` describe what its points mean (see `dataset.skeleton.Skeleton.to_dict`; empty: COCO's 17 of a person),
    `category_ids` the annotation files' own ids by class id, for results in COCO's format (empty: the class ids).
    `step` counts the optimizer steps of the training (0: not known), `decoding` are settings of inference that suit
    the model (see `config.with_decoding`). `domain` says in a sentence what it is good for.
    """

    model: Pix2Seq
    cfg: CFG
    class_names: dict[int, str]
    text: dict[str, Any]
    keypoints: dict[str, Any] = field(default_factory=dict)
    category_ids: dict[int, int] = field(default_factory=dict)
    step: int = 0
    decoding: dict[str, Any] = field(default_factory=dict)
    domain: str = ""
    licence: str = ""


def save_weights(path: Path, weights: Weights, dtype: torch.dtype = torch.float32) -> None:
    """Write `path` whole or not at all (then UserError); floating-point tensors are stored as `dtype`, but for those
    that `dtype` would overflow. Tensors that are not finite are refused."""
    state = weights.model.state_dict()
    require_finite(state, f"the weights for {path} are", "nothing was written: lower --lr")
    tensors = {name: _stored(tensor, dtype).contiguous().cpu() for name, tensor in state.items()}
    try:
        with replacing(path) as unfinished:
            save_file(tensors, unfinished, {"format": FORMAT} | metadata_of(weights))
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be written ({error}); make room, or choose another place") from None


def metadata_of(weights: Weights) -> dict[str, str]:
    """What `metadata.typed` reads: JSON texts by name, but for the words of `domain` and `licence`."""
    return {
        "cfg": to_json(weights.cfg),
        "class_names": json.dumps(weights.class_names),
        "text": json.dumps(weights.text),
        "keypoints": json.dumps(weights.keypoints),
        "category_ids": json.dumps(weights.category_ids),
        "step": str(weights.step),
        "decoding": json.dumps(weights.decoding),
        "domain": weights.domain,
        "licence": weights.licence,
    }


def _stored(tensor: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """The tensor as `dtype` if it holds floating-point numbers, none of which becomes infinite."""
    converted = tensor.to(dtype) if tensor.is_floating_point() else tensor
    return converted if bool(torch.isfinite(converted).all()) else tensor


def write_metadata(path: Path, changes: Mapping[str, str]) -> None:
    """Replace some metadata of a weights file, whole or not at all (then UserError); its tensors stay as they are."""
    try:
        with path.open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
            header["__metadata__"] |= changes
            text = json.dumps(header).encode()
            text += b" " * (-len(text) % 8)  # tensors begin at a multiple of 8 bytes
            with replacing(path) as unfinished, unfinished.open("wb") as copy:
                copy.write(len(text).to_bytes(8, "little") + text)
                shutil.copyfileobj(file, copy)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be written ({error}); make room, or copy it to another place") from None


def load_weights(path: Path) -> Weights:
    """The model of a weights file in evaluation mode on the CPU, in float32; raise UserError if there is none.

    Its tensors are compared with what its settings describe before memory is taken for either.
    """
    metadata = read_metadata(path)
    check_shapes(metadata, path)
    tensors = _finite_tensors(path)
    model = Pix2Seq(metadata.cfg.model).eval()
    model.load_state_dict(tensors)
    described = {member.name: getattr(metadata, member.name) for member in fields(Weights) if member.name != "model"}
    return Weights(model, **described)


def check_shapes(metadata: Metadata, path: Path) -> None:
    """Raise UserError, with the first names, unless the tensors in the file are those of the model that it describes.

    The model is built without memory (on torch's meta device).
    """
    try:
        with shapes_alone():
            own = Pix2Seq(metadata.cfg.model).state_dict()
    except UserError as error:
        raise UserError(f"the settings in {path} describe no model: {error}") from None
    wrong = sorted(own.keys() ^ metadata.shapes.keys())
    for name in own.keys() & metadata.shapes.keys():
        stored = FLOATS if own[name].is_floating_point() else INTEGERS
        if tuple(own[name].shape) != metadata.shapes[name] or metadata.kinds[name] not in stored:
            wrong.append(name)
    if wrong:
        raise UserError(
            f"{path} does not fit the model that its settings describe: {len(wrong)} tensors differ, among them "
            f"{', '.join(plain(name, 80) for name in wrong[:3])}; use the file as it was written"
        )


def _finite_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a weights file by name; raise UserError if one holds a number that is not finite."""
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} cannot be read completely ({plain(str(error))}); get it again") from None
    require_finite(tensors, f"{path} is", "it predicts nothing: get another, or train it again with a lower --lr")
    return tensors
