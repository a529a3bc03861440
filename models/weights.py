"""A weights file describes itself: tensors, and as metadata the whole CFG, class names and caption vocabulary."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from pix2seq.config import CFG, decoding_in, from_json, to_json
from pix2seq.errors import UserError
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime.files import replacing
from pix2seq.runtime.finite import require_finite

FORMAT = "pix2seq-toolkit"
MOST_CHARACTERS = 200  # of domain and licence


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
    metadata = {
        "format": FORMAT,
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
    try:
        with replacing(path) as unfinished:
            save_file(tensors, unfinished, metadata)
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path} cannot be written ({error}); make room, or choose another place") from None


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
    """The model of a weights file in evaluation mode on the CPU, in float32."""
    if not path.is_file():
        raise UserError(f"there is no weights file {path}; train one, or name another with --weights")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise UserError(f"{path} is not a safetensors file ({error}); get it again") from None
    if metadata.get("format") != FORMAT:
        raise UserError(f"{path} was not written by this toolkit: its metadata name no {FORMAT} settings")
    try:
        cfg = from_json(metadata["cfg"])
        # A file of the first version has a word list and cannot have anything else.
        text = json.loads(metadata["text"]) if "text" in metadata else {"words": json.loads(metadata["words"])}
        class_names = {int(key): name for key, name in json.loads(metadata["class_names"]).items()}
        keypoints = json.loads(metadata.get("keypoints", "{}"))
        category_ids = {int(key): number for key, number in json.loads(metadata.get("category_ids", "{}")).items()}
        step = int(metadata.get("step", 0))
        decoding = decoding_in(metadata)
        words = (_plain(metadata.get(name, "")) for name in ("domain", "licence"))
    except (ValueError, KeyError, TypeError, AttributeError, UserError) as error:
        raise UserError(f"the settings in {path} cannot be read ({error!r}); get it again") from None
    require_finite(tensors, f"{path} is", "it predicts nothing: get another, or train it again with a lower --lr")
    model = Pix2Seq(cfg.model).eval()
    fit(model, tensors, path)
    return Weights(model, cfg, class_names, text, keypoints, category_ids, step, decoding, *words)


def _plain(text: str) -> str:
    """At most MOST_CHARACTERS printable characters of a stranger's text, on one line."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())[:MOST_CHARACTERS]


def fit(model: Pix2Seq, tensors: dict[str, torch.Tensor], path: Path) -> None:
    """Copy `tensors` into `model`; raise UserError with the first names that do not fit."""
    own = model.state_dict()
    wrong = sorted(own.keys() ^ tensors.keys())
    wrong += [name for name in own.keys() & tensors.keys() if own[name].shape != tensors[name].shape]
    if wrong:
        raise UserError(
            f"{path} does not fit the model that its settings describe: "
            f"{len(wrong)} tensors differ, among them {', '.join(wrong[:3])}; use the file as it was written"
        )
    model.load_state_dict(tensors)
