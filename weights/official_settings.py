"""Infer the settings of an official model from the shapes of its variables and from its `config.json`."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from pix2seq.config import CFG, PRESETS, replace, value_of
from pix2seq.errors import UserError
from pix2seq.token_ids import COORDS, TEXT_SHIFT
from pix2seq.weights.official_config import OfficialConfig

OFFICIAL = ("resnet50", "resnet50-c4", "vit-b", "vit-l")

# The decoding of Google's multi-task configuration. Its captions are sampled from the whole distribution, but the
# authors advise to decode them greedily: BLEU-4 35.3 instead of 14.1 (google-research/pix2seq, issue 31).
PUBLISHED = {
    "temperature": 1.0,
    "detection_top_p": 0.4,
    "read_drawn_class": True,
    "coord_window": 0,
    "num_samples": 8,
    "top_k": 0,
    "top_p": 0.8,
    "mask_threshold": 0.5,
    "mask_tokens": 256,
    "keypoint_top_p": 0.1,
    "suppress_invisible": True,
    "points_score_weight": 1.0,
    "caption_top_p": 0.0,
}

Shapes = Mapping[str, tuple[int, ...]]


def official_cfg(
    shapes: Shapes,
    image_size: int | None = None,
    projection: str = "",
    config: OfficialConfig | None = None,
) -> CFG:
    """The settings of the model whose tensor `name` was a TensorFlow variable of shape `shapes[name]`.

    If the canvas's side `image_size` (pixels) is None, it is that of `config`, or follows from learned positions.
    Decoding is the PUBLISHED one where `config` does not tell another. `projection` is needed if the model has no
    projection MLP and `config` does not tell it: `linear` and `linear_p` have the same variables. `preset` is set if
    all dimensions agree with one. Raises UserError if a variable is missing or the size is not known.
    """
    config = config or OfficialConfig()
    dims = _dimensions(shapes, projection or config.projection)
    _check_vocabulary(dims["vocab_size"], config)
    base = PRESETS[_family(dims)]
    grid = _learned_grid(shapes, dims, config)
    image_size = _side(image_size, config, grid, _stride(dims))
    if grid and grid != (_cells(image_size, dims),) * 2:
        dims["positions_grid"] = "{}x{}".format(*grid)
    names = (name for name in OFFICIAL if _agrees(PRESETS[name], dims))
    tasks = base.tasks if dims["vocab_size"] > TEXT_SHIFT else ("detection",)  # without text: detection alone
    settings = dims | PUBLISHED | config.settings
    return replace(base, preset=next(names, ""), task=",".join(tasks), image_size=image_size, **settings)


def published_decoding(cfg: CFG) -> dict[str, Any]:
    """The decoding settings by name for the file of an official model: also those that are defaults today."""
    return {name: value_of(cfg, name) for name in PUBLISHED}


def _dimensions(shapes: Shapes, projection: str) -> dict[str, Any]:
    """Every field of ModelCFG that follows from the shapes."""

    size = partial(_size, shapes)

    def ratio(part: str) -> int:
        return size(f"{part}.layers.0.mlp.up.weight", 1) // size(f"{part}.layers.0.mlp.up.weight", 0)

    dims = {
        "encoder_width": size("encoder.stem.0.weight", -1),
        "encoder_layers": _count(shapes, r"encoder\.layers\.(\d+)\."),
        "encoder_heads": size("encoder.layers.0.attention.query.weight", 1),
        "decoder_width": size("projection.dense.weight", -1),
        "decoder_layers": _count(shapes, r"decoder\.layers\.(\d+)\."),
        "decoder_heads": size("decoder.layers.0.self_attention.query.weight", 1),
        "mlp_ratio": ratio("encoder"),
        "decoder_mlp_ratio": ratio("decoder") if ratio("decoder") != ratio("encoder") else 0,
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


def _size(shapes: Shapes, name: str, axis: int) -> int:
    """A dimension of a variable, at least 1."""
    shape = shapes.get(name, ())
    if len(shape) <= max(axis, 0) or shape[axis] < 1:
        raise UserError(f"the checkpoint has no variable for {name}, so it is not an official Pix2Seq model")
    return shape[axis]


def _count(shapes: Shapes, pattern: str) -> int:
    """One more than the highest number that `pattern` matches at the beginning of a name."""
    return 1 + max((int(match[1]) for name in shapes if (match := re.match(pattern, name))), default=-1)


def _backbone(shapes: Shapes) -> dict[str, str]:
    stem = "encoder.backbone.net.conv1.weight"
    if stem not in shapes:
        return {"backbone": "patches", "backbone_kwargs": "{}"}
    stages = max(_count(shapes, r"encoder\.backbone\.net\.layer(\d+)\.") - 1, 1)  # what lacks is named by `check_fit`
    width = _size(shapes, stem, -1) / 64
    kwargs = {"stages": stages} if stages != 4 else {}
    kwargs |= {"width": width} if width != 1 else {}
    return {"backbone": "resnet50_official", "backbone_kwargs": json.dumps(kwargs)}


def _projection(shapes: Shapes, named: str) -> str:
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


def _check_vocabulary(vocab_size: int, config: OfficialConfig) -> None:
    if config.vocab_size not in (0, vocab_size):
        raise UserError(
            f"the checkpoint has {vocab_size} token ids, its config.json says {config.vocab_size}: they do not belong "
            "together"
        )
    if vocab_size < COORDS.stop:
        raise UserError(
            f"the checkpoint has {vocab_size} token ids; coordinates end at {COORDS.stop}, and must be there"
        )


def _stride(dims: Mapping[str, Any]) -> int:
    """Side in pixels of a cell of the encoder's grid."""
    return 16 if dims["backbone"] == "patches" else 2 ** (json.loads(dims["backbone_kwargs"]).get("stages", 4) + 1)


def _cells(size: int, dims: Mapping[str, Any]) -> int:
    """Cells along a side of `size` pixels: patches are whole, convolutions pad."""
    stride = _stride(dims)
    return size // stride if dims["backbone"] == "patches" else -(-size // stride)


def _learned_grid(shapes: Shapes, dims: Mapping[str, Any], config: OfficialConfig) -> tuple[int, int] | None:
    """Rows and columns of the learned positions: of the canvas that was trained on, of a square if that is not known,
    None if positions are computed."""
    if dims["encoder_positions"] != "learned":
        return None
    count = _size(shapes, "encoder.positions.weight", 0)
    side = math.isqrt(count)
    grid = tuple(_cells(length, dims) for length in config.canvas) if config.canvas else (side, side)
    if math.prod(grid) != count:
        raise UserError(
            f"the checkpoint has {count} learned positions, which are not {grid[0]} rows of {grid[1]}; name the "
            "config.json of its training with --official-config"
        )
    return grid


def _side(image_size: int | None, config: OfficialConfig, grid: tuple[int, int] | None, stride: int) -> int:
    """Side of the square canvas in pixels."""
    if image_size is not None:
        return image_size
    canvas = config.canvas or (grid and (grid[0] * stride, grid[1] * stride))
    if not canvas:
        raise UserError(
            "the checkpoint does not tell its canvas, and neither a config.json nor its folder's name does; name its "
            "side in pixels with --image-size"
        )
    if canvas[0] != canvas[1]:
        raise UserError(
            f"the checkpoint was trained on canvases of {canvas[0]} x {canvas[1]} pixels, and they are square here; "
            f"--image-size {max(canvas)} converts it for squares, on which it may do worse"
        )
    return canvas[0]


def _agrees(preset: CFG, dims: Mapping[str, Any]) -> bool:
    """Whether all dimensions but the vocabulary's, which may include text or not, are those of `preset`."""
    return all(getattr(preset.model, name) == value for name, value in dims.items() if name != "vocab_size")
