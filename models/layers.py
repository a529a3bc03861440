"""Transformer layers shared by encoder and decoder: attention, MLP, blocks, position codes.

The same layers come in two styles: `standard` (LayerNorm, GELU, biases; positions are added to the tokens) and
`llama` (RMSNorm, SwiGLU, no biases; positions rotate queries and keys).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from timm.layers import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from pix2seq.config import ModelCFG
from pix2seq.packing import Buckets

NORM_EPS = 1e-6
FREQUENCY_BASE = 10000


@dataclass(frozen=True)
class LayerCFG:
    """What all layers of one transformer have in common."""

    width: int
    heads: int
    mlp_ratio: int
    dropout: float
    attention_dropout: float
    drop_path: float
    llama: bool

    @classmethod
    def encoder(cls, cfg: ModelCFG) -> LayerCFG:
        """Of the layers on top of the backbone."""
        return cls._of(cfg, cfg.encoder_width, cfg.encoder_heads, cfg.mlp_ratio)

    @classmethod
    def decoder(cls, cfg: ModelCFG) -> LayerCFG:
        """Of the decoder."""
        return cls._of(cfg, cfg.decoder_width, cfg.decoder_heads, cfg.decoder_mlp_ratio or cfg.mlp_ratio)

    @classmethod
    def projection(cls, cfg: ModelCFG) -> LayerCFG:
        """Of the projection to the decoder: as wide as the decoder, with the encoder's MLP, as in the official code."""
        return cls._of(cfg, cfg.decoder_width, cfg.decoder_heads, cfg.mlp_ratio)

    @classmethod
    def _of(cls, cfg: ModelCFG, width: int, heads: int, mlp_ratio: int) -> LayerCFG:
        llama = cfg.transformer == "llama"
        return cls(width, heads, mlp_ratio, cfg.dropout, cfg.attention_dropout, cfg.drop_path, llama)

    def norm(self) -> nn.Module:
        """A new normalisation of tokens."""
        return (RMSNorm if self.llama else nn.LayerNorm)(self.width, eps=NORM_EPS)

    def mlp(self) -> nn.Module:
        """A new MLP."""
        return (SwiGLU if self.llama else MLP)(self.width, self.mlp_ratio, self.dropout)


class RMSNorm(nn.RMSNorm):
    """RMS norm in the precision of its weight: autocast widens LayerNorm's input by itself, but not this one's."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype))


class Attention(nn.Module):
    """Multi-head attention from `x` (B, L, D) to keys and values that are projected once by `keys_values`."""

    def __init__(self, cfg: LayerCFG) -> None:
        super().__init__()
        self.heads, self.dropout = cfg.heads, cfg.attention_dropout
        self.query = nn.Linear(cfg.width, cfg.width, bias=not cfg.llama)
        self.key = nn.Linear(cfg.width, cfg.width, bias=not cfg.llama)
        self.value = nn.Linear(cfg.width, cfg.width, bias=not cfg.llama)
        self.out = nn.Linear(cfg.width, cfg.width, bias=not cfg.llama)

    def split(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, heads, L, D / heads)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def queries(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """Queries (B, heads, L, D / heads) of `x` (B, L, D), rotated by `angles` (L, D / heads / 2)."""
        return rotate(self.split(self.query(x)), angles)

    def keys_values(self, memory: Tensor, angles: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, heads, N, D / heads), of `memory` (B, N, D); keys rotated as queries are."""
        return rotate(self.split(self.key(memory)), angles), self.split(self.value(memory))

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
        """(B, L, D) of `queries` (B, heads, L, D / heads); `causal`: each attends to its place and those before."""
        return self.merge_heads(self.attend(queries, keys, values, causal))

    def attend(self, queries: Tensor, keys: Tensor, values: Tensor, causal: bool = False) -> Tensor:
        """The output of each head, (B, heads, L, D / heads)."""
        dropout = self.dropout if self.training else 0.0
        return F.scaled_dot_product_attention(queries, keys, values, dropout_p=dropout, is_causal=causal)

    def merge_heads(self, heads: Tensor) -> Tensor:
        """(B, heads, L, D / heads) → (B, L, D)"""
        return self.out(heads.transpose(1, 2).flatten(2))

    def merge_buckets(self, heads: Sequence[Tensor], buckets: Buckets) -> Tensor:
        """(r, heads, l, D / heads) of each bucket → (T, D)"""
        return self.out(buckets.collect([part.transpose(1, 2).flatten(2) for part in heads]))


class MLP(nn.Module):
    """Linear, exact GELU, dropout, linear: (…, D) → (…, D)."""

    def __init__(self, width: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, width * ratio)
        self.down = nn.Linear(width * ratio, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x))))


class SwiGLU(nn.Module):
    """Gated MLP (Shazeer, 2020), (…, D) → (…, D); two thirds as wide as an MLP of the same `ratio`: as many weights."""

    def __init__(self, width: int, ratio: int, dropout: float) -> None:
        super().__init__()
        hidden = round(width * ratio * 2 / 3 / 8) * 8
        self.gate = nn.Linear(width, hidden, bias=False)
        self.up = nn.Linear(width, hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.silu(self.gate(x)) * self.up(x)))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP: (B, N, D) → (B, N, D)."""

    def __init__(self, cfg: LayerCFG) -> None:
        super().__init__()
        self.norm_attention = cfg.norm()
        self.attention = Attention(cfg)
        self.norm_mlp = cfg.norm()
        self.mlp = cfg.mlp()
        self.drop_path = DropPath(cfg.drop_path)

    def forward(self, x: Tensor, angles: Tensor | None = None) -> Tensor:
        """`angles` (N, D / heads / 2) are the rotary positions of the tokens, if they have any."""
        return recomputed(self, self._compute, x, angles)

    def _compute(self, x: Tensor, angles: Tensor | None) -> Tensor:
        y = self.norm_attention(x)
        attended = self.attention(self.attention.queries(y, angles), *self.attention.keys_values(y, angles))
        x = x + self.drop_path(attended)
        return x + self.drop_path(self.mlp(self.norm_mlp(x)))


def recomputed(layer: nn.Module, compute: Callable[..., Tensor], *inputs: Any) -> Tensor:
    """`compute(*inputs)`; nothing inside is kept for the backward pass if the layer is to `recompute` it there."""
    if getattr(layer, "recompute", False) and layer.training and torch.is_grad_enabled():
        return checkpoint(compute, *inputs, use_reentrant=False)
    return compute(*inputs)


def sincos_1d(positions: Tensor, width: int) -> Tensor:
    """Code (L, width) of `positions` (L,) in 0 … 2π: sines of all frequencies, then cosines (Pix2Seq's layout)."""
    angles = rotary_1d(positions, width)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Code (height · width, channels) of a grid, row by row: half the channels encode y, the other half x.

    A grid of one row or one column has the code of a line, as in the official code.
    """
    if 1 in (height, width):
        return sincos_1d(full_circle(height * width, device), channels)
    code_y = sincos_1d(full_circle(height, device), channels // 2)[:, None].expand(-1, width, -1)
    code_x = sincos_1d(full_circle(width, device), channels // 2)[None].expand(height, -1, -1)
    return torch.cat([code_y, code_x], dim=-1).flatten(0, 1)


def full_circle(count: int, device: torch.device | None = None) -> Tensor:
    """`count` positions (count,) from 0 to 2π."""
    return torch.arange(count, device=device) / max(count - 1, 1) * 2 * math.pi


def rotary_1d(positions: Tensor, width: int) -> Tensor:
    """Angles (L, width / 2) of `positions` (L,), one turn in 2π to 2π · 10000 positions (Su et al., 2021)."""
    exponent = 2 * torch.arange(width // 2, device=positions.device) / width
    return positions[:, None] / (FREQUENCY_BASE**exponent)


def rotary_2d(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Angles (height · width, channels / 2) of a grid, row by row: half of them turn with y, the other half with x."""
    y = rotary_1d(torch.arange(height, device=device), channels // 2)[:, None].expand(-1, width, -1)
    x = rotary_1d(torch.arange(width, device=device), channels // 2)[None].expand(height, -1, -1)
    return torch.cat([y, x], dim=-1).flatten(0, 1)


def rotate(x: Tensor, angles: Tensor | None) -> Tensor:
    """`x` (…, L, d) with its pairs of channels (i, i + d / 2) turned by `angles` (L, d / 2)."""
    if angles is None:
        return x
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)


def init_weights(module: nn.Module) -> None:
    """Glorot-uniform matrices, zero biases, unit norms: what the official dense layers start from."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


@torch.no_grad()
def init_official_attention(module: nn.Module) -> None:
    """Glorot-uniform with the fans that Keras sees in attention's kernels (in, heads, d) and (heads, d, out).

    It takes all but the last two dimensions for places of a convolution, so they start smaller than by `init_weights`.
    """
    if not isinstance(module, Attention):
        return
    width, heads = module.query.in_features, module.heads
    each = width // heads
    for linear in (module.query, module.key, module.value):
        glorot_uniform(linear.weight, width * heads, width * each)
    glorot_uniform(module.out.weight, heads * each, heads * width)


def glorot_uniform(weight: Tensor, fan_in: int, fan_out: int) -> None:
    """Fill `weight` from ±√(6 / (fan_in + fan_out)) (Glorot and Bengio, 2010)."""
    limit = math.sqrt(6 / (fan_in + fan_out))
    nn.init.uniform_(weight, -limit, limit)
