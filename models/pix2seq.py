"""Pix2Seq: an image encoder, a projection, and an autoregressive decoder."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from pix2seq.config import ModelCFG
from pix2seq.models.decoder import Decoder
from pix2seq.models.encoders import Encoder, GridPositions
from pix2seq.models.layers import LayerCFG, init_official_attention, init_weights
from pix2seq.models.step import StepDecoder
from pix2seq.packing import Packing


class Projection(nn.Module):
    """Encoded tokens to the decoder's memory: dense, norm, a second position code, one residual MLP.

    The code is added in every style: cross-attention has no rotary positions, so the memory itself must hold them.
    """

    def __init__(self, cfg: ModelCFG, in_width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        layer = LayerCFG.projection(cfg)
        self.dense = nn.Linear(in_width, layer.width, bias=not layer.llama)
        self.norm = layer.norm()
        self.positions = self.mlp = None
        if cfg.projection != "linear":
            self.positions = GridPositions(cfg.encoder_positions, layer.width, grid)
        if cfg.projection == "mlp":
            self.norm_mlp = layer.norm()
            self.mlp = layer.mlp()
            self.drop_path = DropPath(layer.drop_path)
        self.apply(init_weights)

    def forward(self, x: Tensor, grid: tuple[int, int], num_prefix: int) -> Tensor:
        """(B, N, C) → (B, N, D)"""
        x = self.norm(self.dense(x))
        if self.positions is not None:
            x = self.positions(x, grid, num_prefix)
        return x + self.drop_path(self.mlp(self.norm_mlp(x))) if self.mlp is not None else x


class Pix2Seq(nn.Module):
    """Letters in shapes: B images, S sequences, L tokens, N memory tokens, D width, V vocabulary."""

    def __init__(self, cfg: ModelCFG, pretrained: bool = False) -> None:
        super().__init__()
        self.cfg = cfg
        self.encoder = Encoder(cfg, pretrained)
        self.projection = Projection(cfg, self.encoder.width, self.encoder.backbone.positions_grid(cfg))
        self.decoder = Decoder(cfg)
        if cfg.init == "official":
            self.apply(init_official_attention)

    @property
    def device(self) -> torch.device:
        return self.decoder.bias.device

    def recompute(self) -> None:
        """Keep nothing inside transformer layers for the backward pass: they are computed again there. Layers with
        batch norms are not, whose statistics would count a batch twice."""
        for layer in (*self.encoder.layers, *self.decoder.layers):
            layer.recompute = True
        if self.encoder.backbone.is_vit:
            self.encoder.backbone.net.set_grad_checkpointing()

    def encode(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1] → memory (B, N, D)."""
        return self.projection(*self.encoder(images))

    def forward(self, images: Tensor, tokens: Tensor, image_index: Tensor) -> Tensor:
        """Logits (S, L, V) after each of `tokens` (S, L); sequence s is about image `image_index[s]`."""
        return self.decode_groups(self.encode(images), [(tokens, image_index)])[0]

    def score(self, memory: Tensor, packing: Packing) -> Tensor:
        """Logits (n, V) after the n scored tokens of a packing, for images that are encoded as `memory` (B, N, D)."""
        return self.decoder.score(memory, packing)

    def decode_groups(self, memory: Tensor, groups: Iterable[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """`forward` for several groups of sequences, each `(tokens, image_index)`, on images encoded as `memory`."""
        memory_pairs = self.decoder.project_memory(memory)
        return [self.decoder(tokens, memory_pairs, image_index) for tokens, image_index in groups]

    def prepare(self, precision: str = "fp32", compiled: bool = False) -> StepDecoder:
        """The decoder with its present weights, ready to decode."""
        return StepDecoder(self.decoder, precision, compiled)
