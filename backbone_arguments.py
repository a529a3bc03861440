"""Which arguments of a backbone can be set: those that say how large a network is, and how it is put together.

`--backbone-kwargs` also comes out of weights files that strangers wrote. timm takes many arguments more, some of which
open a file (`checkpoint_path`), reach a server (`pretrained_cfg`) or name code: none of them is here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from pix2seq.schema import decode

ADVICE = 'give a JSON object of sizes such as {"depth": 6}, which backbone_arguments.py lists'
STAGES = 8  # most of a network
Width = Annotated[int, Meta(ge=1, le=8192)]
Depth = Annotated[int, Meta(ge=0, le=200)]
Size = Annotated[int, Meta(ge=1, le=128)]
Factor = Annotated[float, Meta(ge=0, le=64)]
Rate = Annotated[float, Meta(ge=0, le=1)]
Widths = Annotated[list[Width], Meta(min_length=1, max_length=STAGES)]
Depths = Annotated[list[Depth], Meta(min_length=1, max_length=STAGES)]
Sizes = Annotated[list[Size], Meta(min_length=1, max_length=STAGES)]
Factors = Annotated[list[Factor], Meta(min_length=1, max_length=STAGES)]


class Arguments(Struct, forbid_unknown_fields=True, omit_defaults=True):
    """Those of our own backbones, then those of timm's families, by timm's names. None: the network's own value."""

    stages: Annotated[int, Meta(ge=1, le=4)] | None = None  # resnet50_official
    width: Annotated[float, Meta(gt=0, le=8)] | None = None
    size: Size | None = None  # patches
    # convnets
    channels: Widths | None = None
    layers: Depths | None = None
    stem_width: Width | None = None
    base_width: Width | None = None
    cardinality: Size | None = None
    block_reduce_first: Size | None = None
    output_stride: Size | None = None
    channel_multiplier: Factor | None = None
    depth_multiplier: Factor | None = None
    dims: Widths | None = None
    kernel_sizes: Size | Sizes | None = None
    ls_init_value: Factor | None = None
    # vision transformers
    embed_dim: Width | Widths | None = None
    embed_dims: Widths | None = None
    depth: Depth | None = None
    depths: Depths | None = None
    num_heads: Size | Sizes | None = None
    mlp_ratio: Factor | Factors | None = None
    mlp_ratios: Factors | None = None
    patch_size: Size | None = None
    window_size: Size | Sizes | None = None
    reg_tokens: Depth | None = None
    init_values: Factor | None = None
    global_pool: Literal["", "avg", "max", "avgmax", "token"] | None = None
    qkv_bias: bool | None = None
    qk_norm: bool | None = None
    class_token: bool | None = None
    no_embed_class: bool | None = None
    pre_norm: bool | None = None
    final_norm: bool | None = None
    # regularization
    drop_rate: Rate | None = None
    drop_path_rate: Rate | None = None
    drop_block_rate: Rate | None = None
    proj_drop_rate: Rate | None = None
    attn_drop_rate: Rate | None = None


def read_arguments(text: str) -> dict[str, Any]:
    """The arguments in the JSON of `--backbone-kwargs`, by name; raise UserError for others, or values out of range."""
    return msgspec.to_builtins(decode(text, Arguments, "--backbone-kwargs", ADVICE))
