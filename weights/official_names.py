"""The names of the official models' variables, and of the tensors here that they become.

A path consists of the Python attributes that lead from the model to a variable: `encoder/stem_conv/kernel`. A weight
that a layer holds itself also has a Keras name, prefixed by the layer's name, in which TensorFlow writes a slash as
`.S`: `decoder/outp_bias` is also `decoder/ar_decoder.Soutp_bias`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

Arrange = Callable[[Tensor], Tensor]


def same(x: Tensor) -> Tensor:
    """The tensor unchanged."""
    return x


def flat(x: Tensor) -> Tensor:
    """(heads, d) or (1, D) → (D,)"""
    return x.flatten()


def matrix(x: Tensor) -> Tensor:
    """(in, out), (heads, d, out) or (rows, columns, in, out) → (out, product of the others), as in nn.Linear."""
    return x.flatten(0, -2).T


def split_matrix(x: Tensor) -> Tensor:
    """(in, heads, d) → (heads · d, in)"""
    return x.permute(1, 2, 0).flatten(0, 1)


def convolution(x: Tensor) -> Tensor:
    """(rows, columns, in, out) → (out, in, rows, columns)"""
    return x.permute(3, 2, 0, 1)


# Kind of layer: its variable in TensorFlow → its name in PyTorch and how its dimensions are arranged.
DENSE = {"kernel": ("weight", matrix), "bias": ("bias", same)}
SPLIT = {"kernel": ("weight", split_matrix), "bias": ("bias", flat)}
CONV = {"kernel": ("weight", convolution)}
LAYER_NORM = {"gamma": ("weight", same), "beta": ("bias", same)}
BATCH_NORM = LAYER_NORM | {"moving_mean": ("running_mean", same), "moving_variance": ("running_var", same)}

GROUP, OUR_GROUP = "encoder/resnet/block_groups/{group}/layers/{i}", "encoder.backbone.net.layer{stage}.{i}"
ENCODER, OUR_ENCODER = "encoder/transformer_encoder/enc_layers/{i}", "encoder.layers.{i}"
DECODER, OUR_DECODER = "decoder/decoder/dec_layers/{i}", "decoder.layers.{i}"


def _attention(path: str, name: str) -> list[tuple[str, str, dict]]:
    return [
        (f"{path}/_query_dense", f"{name}.query", SPLIT),
        (f"{path}/_key_dense", f"{name}.key", SPLIT),
        (f"{path}/_value_dense", f"{name}.value", SPLIT),
        (f"{path}/_output_dense", f"{name}.out", DENSE),
    ]


def _mlp(path: str, name: str) -> list[tuple[str, str, dict]]:
    return [
        (f"{path}/layernorms/0", f"{name}.norm_mlp", LAYER_NORM),
        (f"{path}/mlp_layers/0/dense1", f"{name}.mlp.up", DENSE),
        (f"{path}/mlp_layers/0/dense2", f"{name}.mlp.down", DENSE),
    ]


# The indices of ResNet's layers have gaps, because layers without weights (ReLU, DropBlock) are counted too.
LAYERS = [
    ("encoder/stem_conv", "encoder.stem.0", DENSE),  # (16, 16, 3, D): a patch is flattened row, column, channel
    ("encoder/stem_projection", "encoder.stem.0", DENSE),
    ("encoder/stem_ln", "encoder.stem.1", LAYER_NORM),
    ("encoder/resnet/initial_conv_relu_max_pool/0/conv2d", "encoder.backbone.net.conv1", CONV),
    ("encoder/resnet/initial_conv_relu_max_pool/2/bn", "encoder.backbone.net.bn1", BATCH_NORM),
    (f"{GROUP}/projection_layers/0/conv2d", f"{OUR_GROUP}.downsample.0", CONV),
    (f"{GROUP}/projection_layers/1/bn", f"{OUR_GROUP}.downsample.1", BATCH_NORM),
    (f"{GROUP}/conv_relu_dropblock_layers/0/conv2d", f"{OUR_GROUP}.conv1", CONV),
    (f"{GROUP}/conv_relu_dropblock_layers/1/bn", f"{OUR_GROUP}.bn1", BATCH_NORM),
    (f"{GROUP}/conv_relu_dropblock_layers/3/conv2d", f"{OUR_GROUP}.conv2", CONV),
    (f"{GROUP}/conv_relu_dropblock_layers/4/bn", f"{OUR_GROUP}.bn2", BATCH_NORM),
    (f"{GROUP}/conv_relu_dropblock_layers/6/conv2d", f"{OUR_GROUP}.conv3", CONV),
    (f"{GROUP}/conv_relu_dropblock_layers/7/bn", f"{OUR_GROUP}.bn3", BATCH_NORM),
    (f"{ENCODER}/mha_ln", f"{OUR_ENCODER}.norm_attention", LAYER_NORM),
    *_attention(f"{ENCODER}/mha", f"{OUR_ENCODER}.attention"),
    *_mlp(f"{ENCODER}/mlp", OUR_ENCODER),
    ("encoder/output_ln", "encoder.norm", LAYER_NORM),
    ("proj", "projection.dense", DENSE),
    ("proj_ln", "projection.norm", LAYER_NORM),
    *_mlp("proj_mlp", "projection"),
    (f"{DECODER}/self_ln", f"{OUR_DECODER}.norm_self", LAYER_NORM),
    *_attention(f"{DECODER}/self_mha", f"{OUR_DECODER}.self_attention"),
    (f"{DECODER}/cross_ln", f"{OUR_DECODER}.norm_cross", LAYER_NORM),
    *_attention(f"{DECODER}/cross_mha", f"{OUR_DECODER}.cross_attention"),
    *_mlp(f"{DECODER}/mlp", OUR_DECODER),
    ("decoder/output_ln", "decoder.norm", LAYER_NORM),
]

# Weights that a layer holds itself, by Python attribute and, if it differs, by Keras name.
VARIABLES = [
    ("encoder/(cls_token_emb|cls_token_embedding)", "encoder.class_token", flat),
    ("encoder/(vis_pos_emb|vis_pos_embedding)", "encoder.positions.weight", same),
    ("(vis_pos_emb|vis_pos_embedding)", "projection.positions.weight", same),
    ("decoder/(seq_pos_emb|seq_pos_embedding)", "decoder.positions", same),
    ("decoder/(token_embedding|inp_token_embedding)", "decoder.embedding.weight", same),
    ("decoder/outp_token_embedding", "decoder.output.weight", same),
    ("decoder/outp_bias", "decoder.bias", same),
]


@dataclass(frozen=True)
class Place:
    """The destination of a variable: the name of the tensor, and how its dimensions are arranged."""

    name: str
    arrange: Arrange


def _pattern(path: str) -> re.Pattern:
    return re.compile(path.replace("{", "(?P<").replace("}", r">\d+)"))


RULES = [
    (_pattern(f"{path}/{variable}"), f"{name}.{tensor}", arrange)
    for path, name, kind in LAYERS
    for variable, (tensor, arrange) in kind.items()
] + [(_pattern(path), name, arrange) for path, name, arrange in VARIABLES]


def place(path: str) -> Place | None:
    """The destination of the variable at `path`; None if no rule matches it."""
    path = re.sub(r"[^/]+\.S", "", path)
    for pattern, name, arrange in RULES:
        if match := pattern.fullmatch(path):
            indices = match.groupdict()
            return Place(name.format(stage=int(indices.get("group", 0)) + 1, **indices), arrange)
    return None
