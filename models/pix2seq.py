"""Pix2Seq: an image encoder, a projection, and an autoregressive decoder."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from config import ModelCFG
from models.decoder import Cache, Decoder
from models.encoders import Encoder, position_code
from models.layers import MLP, NORM_EPS, init_weights


class Projection(nn.Module):
    """Encoded tokens to the decoder's memory: dense, norm, a second position code, one residual MLP."""

    def __init__(self, in_width: int, width: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.dense = nn.Linear(in_width, width)
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, ratio, dropout)
        self.apply(init_weights)

    def forward(self, x: Tensor, grid: tuple[int, int], num_prefix: int) -> Tensor:
        """(B, N, C) → (B, N, D)"""
        x = self.norm(self.dense(x))
        x = x + position_code(grid, num_prefix, x.shape[-1], x)
        return x + self.mlp(self.norm_mlp(x))


class Pix2Seq(nn.Module):
    """Letters in shapes: B images, S sequences, L tokens, N memory tokens, D width, V vocabulary."""

    def __init__(self, cfg: ModelCFG, pretrained: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg, pretrained)
        self.projection = Projection(self.encoder.width, cfg.decoder_width, cfg.mlp_ratio, cfg.dropout)
        self.decoder = Decoder(cfg)

    @property
    def device(self) -> torch.device:
        return self.decoder.bias.device

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → memory (B, N, D)."""
        return self.projection(*self.encoder(images))

    def forward(self, images: Tensor, tokens: Tensor, image_index: Tensor) -> Tensor:
        """Logits (S, L, V) after each of `tokens` (S, L); sequence s is about image `image_index[s]`."""
        return self.forward_groups(images, [(tokens, image_index)])[0]

    def forward_groups(self, images: Tensor, groups: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """`forward` for several groups of sequences, each `(tokens, image_index)`, on one encoding of the images."""
        return self.answer_groups(self.encode(images), groups)

    def answer_groups(self, memory: Tensor, groups: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """`forward_groups` for images that are already encoded as `memory` (B, N, D)."""
        memory_pairs = self.decoder.read(memory)
        return [self.decoder(tokens, memory_pairs, image_index) for tokens, image_index in groups]

    def start(self, memory: Tensor, image_index: Tensor, max_length: int) -> Cache:
        """An empty cache for S sequences of at most `max_length` tokens, prompt included."""
        return self.decoder.start(memory, image_index, max_length)

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Logits (S, V) after the next `tokens` (S, T)."""
        return self.decoder.step(tokens, cache)
