"""The variables of an official ViT of any size, by path, with random numbers."""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Sizes:
    """What shapes follow from; `grid` is that of learned positions, None: they are computed."""

    width: int = 48
    heads: int = 4
    layers: int = 2
    ratio: int = 4
    decoder_width: int = 32
    decoder_heads: int = 4
    decoder_layers: int = 2
    decoder_ratio: int = 4
    vocab: int = 3000
    tokens: int = 512
    grid: tuple[int, int] | None = None


def vit_shapes(sizes: Sizes) -> dict[str, tuple[int, ...]]:
    """Path to shape of every variable."""
    width, decoder_width = sizes.width, sizes.decoder_width
    shapes = _dense("encoder/stem_conv", 16, 16, 3, width) | _norm("encoder/stem_ln", width)
    for layer in range(sizes.layers):
        path = f"encoder/transformer_encoder/enc_layers/{layer}"
        shapes |= _norm(f"{path}/mha_ln", width) | _attention(f"{path}/mha", width, sizes.heads)
        shapes |= _mlp(f"{path}/mlp", width, sizes.ratio)
    shapes |= _norm("encoder/output_ln", width) | _dense("proj", width, decoder_width) | _norm("proj_ln", decoder_width)
    shapes |= _mlp("proj_mlp", decoder_width, sizes.ratio)  # officially that of the encoder
    for layer in range(sizes.decoder_layers):
        path = f"decoder/decoder/dec_layers/{layer}"
        for kind in ("self", "cross"):
            shapes |= _norm(f"{path}/{kind}_ln", decoder_width)
            shapes |= _attention(f"{path}/{kind}_mha", decoder_width, sizes.decoder_heads)
        shapes |= _mlp(f"{path}/mlp", decoder_width, sizes.decoder_ratio)
    shapes |= _norm("decoder/output_ln", decoder_width)
    shapes |= {
        "decoder/token_embedding": (sizes.vocab, decoder_width),
        "decoder/seq_pos_emb": (sizes.tokens, decoder_width),
        "decoder/outp_bias": (sizes.vocab,),
    }
    if sizes.grid:
        cells = sizes.grid[0] * sizes.grid[1]
        shapes |= {"encoder/vis_pos_emb": (cells, width), "vis_pos_emb": (cells, decoder_width)}
    return shapes


def vit_arrays(sizes: Sizes, seed: int = 0) -> dict[str, np.ndarray]:
    """Path to random numbers of every variable."""
    return random_arrays(vit_shapes(sizes), seed)


def random_arrays(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> dict[str, np.ndarray]:
    """Normally distributed float32 numbers, a tenth in size."""
    rng = np.random.default_rng(seed)
    return {path: rng.normal(size=shape, scale=0.1).astype(np.float32) for path, shape in shapes.items()}


def _dense(path: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/kernel": shape, f"{path}/bias": shape[-1:]}


def _norm(path: str, width: int) -> dict[str, tuple[int, ...]]:
    return {f"{path}/gamma": (width,), f"{path}/beta": (width,)}


def _mlp(path: str, width: int, ratio: int) -> dict[str, tuple[int, ...]]:
    inside = f"{path}/mlp_layers/0"
    layers = _dense(f"{inside}/dense1", width, ratio * width) | _dense(f"{inside}/dense2", ratio * width, width)
    return _norm(f"{path}/layernorms/0", width) | layers


def _attention(path: str, width: int, heads: int) -> dict[str, tuple[int, ...]]:
    each = width // heads
    shapes = {}
    for name in ("query", "key", "value"):
        shapes |= {f"{path}/_{name}_dense/kernel": (width, heads, each), f"{path}/_{name}_dense/bias": (heads, each)}
    return shapes | {f"{path}/_output_dense/kernel": (heads, each, width), f"{path}/_output_dense/bias": (width,)}
