"""Infer the settings of an official model from the shapes of its variables."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from pix2seq.config import CFG, PRESETS, replace
from pix2seq.errors import UserError
from pix2seq.token_ids import TEXT_SHIFT

OFFICIAL = ("resnet50", "resnet50-c4", "vit-b", "vit-l")


def official_cfg(shapes: Mapping[str, tuple[int, ...]], image_size: int | None = None, projection: str = "") -> CFG:
    """The settings of the model whose tensor `name` was a TensorFlow variable of shape `shapes[name]`.

    If the image size (pixels) is None, it follows from learned positions, or is the preset's. `projection` is needed
    if the model has no projection MLP: `linear` and `linear_p` have the same variables. `preset` is set if all
    dimensions agree with one. Raises UserError if a variable is missing.
    """
    dims = _dimensions(shapes, projection)
    base = PRESETS[_family(dims)]
    if image_size is None:
        image_size = _learned_size(shapes, dims) or base.model.image_size
    names = (name for name in OFFICIAL if _agrees(PRESETS[name], dims))
    tasks = base.tasks if dims["vocab_size"] > TEXT_SHIFT else ("detection",)  # without text: detection alone
    return replace(base, preset=next(names, ""), task=",".join(tasks), image_size=image_size, **dims)


def _dimensions(shapes: Mapping[str, tuple[int, ...]], projection: str) -> dict[str, Any]:
    """Every field of ModelCFG that follows from the shapes."""

    def size(name: str, axis: int) -> int:
        if len(shapes.get(name, ())) <= max(axis, 0):
            raise UserError(f"the checkpoint has no variable for {name}, so it is not an official Pix2Seq model")
        return shapes[name][axis]

    dims = {
        "encoder_width": size("encoder.stem.0.weight", -1),
        "encoder_layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
        "encoder_heads": size("encoder.layers.0.attention.query.weight", 1),
        "decoder_width": size("projection.dense.weight", -1),
        "decoder_layers": _count(shapes, r"decoder\.layers\.(\d+)\."),
        "decoder_heads": size("decoder.layers.0.self_attention.query.weight", 1),
        "mlp_ratio": size("encoder.layers.0.mlp.up.weight", 1) // size("encoder.layers.0.mlp.up.weight", 0),
        "class_token": "encoder.class_token" in shapes,
        "encoder_positions": "learned" if "encoder.positions.weight" in shapes else "sincos",
        "decoder_positions": "learned" if "decoder.positions" in shapes else "sincos",
        "shared_embedding": "decoder.output.weight" not in shapes,
        "vocab_size": size("decoder.embedding.weight", 0),
        "projection": _projection(shapes, projection),
    }
    if dims["decoder_positions"] == "learned":
        dims["max_tokens"] = size("decoder.positions", 0)
    return dims | _backbone(shapes)


def _count(shapes: Mapping[str, tuple[int, ...]], pattern: str) -> int:
    """One more than the highest number that `pattern` matches at the beginning of a name."""
    return 1 + max((int(match[1]) for name in shapes if (match := re.match(pattern, name))), default=-1)


def _backbone(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    stem = shapes.get("encoder.backbone.net.conv1.weight")
    if stem is None:
        return {"backbone": "patches", "backbone_kwargs": "{}"}
    stages, width = _count(shapes, r"encoder\.backbone\.net\.layer(\d+)\.") - 1, stem[-1] / 64
    kwargs = {"stages": stages} if stages != 4 else {}
    kwargs |= {"width": width} if width != 1 else {}
    return {"backbone": "resnet50_official", "backbone_kwargs": json.dumps(kwargs)}


def _projection(shapes: Mapping[str, tuple[int, ...]], named: str) -> str:
    signs = {"projection.mlp.up.weight": "mlp", "projection.positions.weight": "linear_p"}
    found = next((kind for name, kind in signs.items() if name in shapes), named)
    if not found:
        raise UserError(
            "the checkpoint does not show which projection it has; name it with --projection linear or linear_p"
        )
    if named and found != named:
        raise UserError(f"the checkpoint's projection is {found}, not {named}; leave out --projection")
    return found


def _family(dims: Mapping[str, Any]) -> str:
    """The name of the preset that has all settings that do not follow from the shapes."""
    if dims["backbone"] == "patches":
        return "vit-b"
    return "resnet50-c4" if json.loads(dims["backbone_kwargs"]).get("stages") == 3 else "resnet50"


def _learned_size(shapes: Mapping[str, tuple[int, ...]], dims: Mapping[str, Any]) -> int | None:
    """Side in pixels of the square canvas whose grid has as many cells as there are learned positions."""
    if dims["encoder_positions"] != "learned":
        return None
    stages = json.loads(dims["backbone_kwargs"]).get("stages", 4)
    stride = 16 if dims["backbone"] == "patches" else 2 ** (stages + 1)
    return math.isqrt(shapes["encoder.positions.weight"][0]) * stride


def _agrees(preset: CFG, dims: Mapping[str, Any]) -> bool:
    """Whether all dimensions but the vocabulary's, which may include text or not, are those of `preset`."""
    return all(getattr(preset.model, name) == value for name, value in dims.items() if name != "vocab_size")
