"""Transformer layers shared by encoder and decoder: attention, MLP, blocks, position codes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

NORM_EPS = 1e-6


class Attention(nn.Module):
    """Multi-head attention from `x` (B, L, D) to keys and values that are projected once by `keys_values`."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Tensor) -> Tensor:
        """(B, L, D) → (B, heads, L, D / heads)"""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def keys_values(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values, each (B, heads, N, D / heads), of `memory` (B, N, D)."""
        return self.split(self.key(memory)), self.split(self.value(memory))

    def forward(self, x: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None = None, causal: bool = False):
        """(B, L, D); `mask` (L, N) bool is True where a query may look."""
        y = F.scaled_dot_product_attention(self.split(self.query(x)), keys, values, attn_mask=mask, is_causal=causal)
        return self.out(y.transpose(1, 2).flatten(2))


class MLP(nn.Module):
    """Linear, exact GELU, dropout, linear: (…, D) → (…, D)."""

    def __init__(self, width: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.up = nn.Linear(width, width * ratio)
        self.down = nn.Linear(width * ratio, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(self.dropout(F.gelu(self.up(x))))


class EncoderLayer(nn.Module):
    """Pre-norm self-attention and MLP: (B, N, D) → (B, N, D)."""

    def __init__(self, width: int, heads: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm_attention = nn.LayerNorm(width, eps=NORM_EPS)
        self.attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, ratio, dropout)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm_attention(x)
        x = x + self.attention(y, *self.attention.keys_values(y))
        return x + self.mlp(self.norm_mlp(x))


def sincos_1d(positions: Tensor, width: int) -> Tensor:
    """Code (L, width) of `positions` (L,) in 0 … 2π: sines of all frequencies, then cosines (Pix2Seq's layout)."""
    exponent = 2 * torch.arange(width // 2, device=positions.device) / width
    angles = positions[:, None] / (10000**exponent)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def sincos_2d(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Code (height · width, channels) of a grid, row by row: half the channels tell y, the other half x."""
    y, x = (torch.arange(n, device=device) / max(n - 1, 1) * 2 * math.pi for n in (height, width))
    code_y = sincos_1d(y, channels // 2)[:, None].expand(-1, width, -1)
    code_x = sincos_1d(x, channels // 2)[None].expand(height, -1, -1)
    return torch.cat([code_y, code_x], dim=-1).flatten(0, 1)


def init_weights(module: nn.Module) -> None:
    """Glorot-uniform matrices, zero biases, unit norms: what the official dense layers start from."""
    if isinstance(module, nn.Linear):
        nn.init.xavier_uniform_(module.weight)
        nn.init.zeros_(module.bias)
