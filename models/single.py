"""A decoding step of one token of one sequence on a processor, by numpy.

Such a step is hundreds of small operations between products of a vector and a matrix. numpy's calls take less time than
torch's, and the library that it multiplies with (OpenBLAS) reads a matrix sooner (docs/decoding.md). Results are those
of `step.py` but for rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from pix2seq.models.layers import rotary_1d, rotate

if TYPE_CHECKING:
    from pix2seq.models.compiled import CompiledLayer
    from pix2seq.models.step import Cache, Pair, StepDecoder, StepLayer

Vector = np.ndarray  # (D,)


class SingleLayer:
    """A `StepLayer` that shares its weights."""

    def __init__(self, layer: StepLayer) -> None:
        self.layer, self.heads = layer, layer.heads
        norms = layer.norm_self, layer.norm_cross, layer.norm_mlp
        self.norm_self, self.norm_cross, self.norm_mlp = (normalizer(norm) for norm in norms)

    def __call__(self, x: Vector, own: Pair, memory: Pair, place: int, angles: torch.Tensor | None) -> Vector:
        """`x` after the layer, in its place. Its key and value are written to `own` at `place`, and those before are
        read."""
        layer = self.layer
        queries, keys, values = layer.own.single(self.norm_self(x)).reshape(3, self.heads, -1)
        if angles is not None:
            queries, keys = (rotate(torch.from_numpy(part[:, None]), angles)[:, 0].numpy() for part in (queries, keys))
        own_keys, own_values = own.arrays
        own_keys[:, place], own_values[:, place] = keys, values
        x += layer.own_out.single(attend(queries, own_keys[:, : place + 1], own_values[:, : place + 1]))
        queries = layer.cross_query.single(self.norm_cross(x)).reshape(self.heads, -1)
        x += layer.cross_out.single(attend(queries, *memory.arrays))
        hidden = layer.activate(torch.from_numpy(layer.up.single(self.norm_mlp(x)))).numpy()
        x += layer.down.single(hidden)
        return x


class SingleDecoder:
    """The layers of a `StepDecoder`, for one sequence; `made` of each is a `SingleLayer` or a `CompiledLayer`."""

    def __init__(self, decoder: StepDecoder, made: Callable[[StepLayer], SingleLayer | CompiledLayer]) -> None:
        self.layers = [made(layer) for layer in decoder.layers]
        self.norm = normalizer(decoder.norm)
        self.embedding = decoder.embedding.numpy()
        self.positions = None if decoder.rotary else decoder.positions.detach().numpy()
        self.head_width = self.embedding.shape[1] // decoder.heads

    def __call__(self, token: int, cache: Cache, place: int) -> Vector:
        """What the last layer makes of a token at a place, normalized."""
        x, angles = self.embedding[token].copy(), None
        if self.positions is None:
            angles = rotary_1d(torch.tensor([place]), self.head_width)
        else:
            x += self.positions[place]
        for layer, own, memory in zip(self.layers, cache.own, cache.memory, strict=True):
            x = layer(x, own, memory, place, angles)
        return self.norm(x)


def attend(queries: np.ndarray, keys: np.ndarray, values: np.ndarray) -> Vector:
    """What `queries` (heads, d), scaled already, read from keys and values (heads, N, d): (D,)."""
    scores = torch.from_numpy(np.matmul(queries[:, None], keys.transpose(0, 2, 1)))
    return np.matmul(scores.softmax(-1).numpy(), values).reshape(-1)


def normalizer(norm: nn.Module) -> Callable[[Vector], Vector]:
    """A LayerNorm, or an RMSNorm, of a vector."""
    weight, eps = norm.weight.detach().numpy(), norm.eps
    if not isinstance(norm, nn.LayerNorm):
        return lambda x: x * (weight * (np.dot(x, x) / len(x) + eps) ** -0.5)
    bias = norm.bias.detach().numpy()

    def normalize(x: Vector) -> Vector:
        x = x - np.add.reduce(x) / len(x)
        x *= (np.dot(x, x) / len(x) + eps) ** -0.5
        x *= weight
        x += bias
        return x

    return normalize
