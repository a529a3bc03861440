"""The autoregressive decoder, with key/value caches so that a decoding step does one token's work."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from config import ModelCFG
from models.layers import MLP, NORM_EPS, Attention, init_weights, sincos_1d

COORDS = slice(1000, 2000)


@dataclass
class Cache:
    """What a decoding step needs of the past: per layer, keys and values of the tokens so far and of the memory.

    `self_keys[i]`, `self_values[i]` (S, heads, max length, d) are filled up to `length`;
    `memory_keys[i]`, `memory_values[i]` (S, heads, N, d) are computed once.
    """

    self_keys: list[Tensor]
    self_values: list[Tensor]
    memory_keys: list[Tensor]
    memory_values: list[Tensor]
    length: int = 0

    @property
    def max_length(self) -> int:
        return self.self_keys[0].shape[2]

    def keep(self, rows: Tensor) -> None:
        """Forget all sequences but `rows`."""
        for part in (self.self_keys, self.self_values, self.memory_keys, self.memory_values):
            part[:] = [tensor[rows] for tensor in part]

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Store keys and values (S, heads, T, d) after the `length` ones that are there; return all of them."""
        end = self.length + keys.shape[2]
        self.self_keys[layer][:, :, self.length : end] = keys
        self.self_values[layer][:, :, self.length : end] = values
        return self.self_keys[layer][:, :, :end], self.self_values[layer][:, :, :end]


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention, MLP, in this order."""

    def __init__(self, width: int, heads: int, ratio: int, dropout: float) -> None:
        super().__init__()
        self.norm_self = nn.LayerNorm(width, eps=NORM_EPS)
        self.self_attention = Attention(width, heads)
        self.norm_cross = nn.LayerNorm(width, eps=NORM_EPS)
        self.cross_attention = Attention(width, heads)
        self.norm_mlp = nn.LayerNorm(width, eps=NORM_EPS)
        self.mlp = MLP(width, ratio, dropout)


class Decoder(nn.Module):
    """Tokens and encoded images to logits; output weights are the token embeddings."""

    def __init__(self, cfg: ModelCFG) -> None:
        super().__init__()
        width = cfg.decoder_width
        self.heads = cfg.decoder_heads
        self.embedding = nn.Embedding(cfg.vocab_size, width)
        self.positions = nn.Parameter(torch.empty(cfg.max_tokens, width))
        self.layers = nn.ModuleList(
            DecoderLayer(width, cfg.decoder_heads, cfg.mlp_ratio, cfg.dropout) for _ in range(cfg.decoder_layers)
        )
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.bias = nn.Parameter(torch.zeros(cfg.vocab_size))
        self.apply(init_weights)
        nn.init.trunc_normal_(self.embedding.weight, std=0.02)
        nn.init.trunc_normal_(self.positions, std=0.02)
        if cfg.coord_init == "sincos":
            self._smooth_coordinates()

    @torch.no_grad()
    def _smooth_coordinates(self) -> None:
        """Start coordinate tokens as a sine-cosine code: neighbouring bins are similar before any is trained."""
        bins = torch.arange(COORDS.stop - COORDS.start) / (COORDS.stop - COORDS.start) * 2 * math.pi
        self.embedding.weight[COORDS] = 0.03 * sincos_1d(bins * 50, self.embedding.embedding_dim)

    def read(self, memory: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Each layer's keys and values, (B, heads, N, d), of `memory` (B, N, D)."""
        return [layer.cross_attention.keys_values(memory) for layer in self.layers]

    def forward(self, tokens: Tensor, memory_pairs: list[tuple[Tensor, Tensor]], image_index: Tensor) -> Tensor:
        """`tokens` (S, L), what `read` gave for B images, `image_index` (S,) → logits (S, L, V)."""
        x = self.embedding(tokens) + self.positions[: tokens.shape[1]]
        for layer, (keys, values) in zip(self.layers, memory_pairs, strict=True):
            y = layer.norm_self(x)
            x = x + layer.self_attention(y, *layer.self_attention.keys_values(y), causal=True)
            keys, values = keys[image_index], values[image_index]
            x = x + layer.cross_attention(layer.norm_cross(x), keys, values)
            x = x + layer.mlp(layer.norm_mlp(x))
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """(…, D) → (…, V)"""
        return nn.functional.linear(self.norm(x), self.embedding.weight, self.bias)

    def start(self, memory: Tensor, image_index: Tensor, max_length: int) -> Cache:
        """An empty cache for S sequences of at most `max_length` tokens over `memory` (B, N, D)."""
        shape = (len(image_index), self.heads, max_length, self.embedding.embedding_dim // self.heads)
        memory_pairs = self.read(memory)
        return Cache(
            self_keys=[memory.new_empty(shape) for _ in self.layers],
            self_values=[memory.new_empty(shape) for _ in self.layers],
            memory_keys=[keys[image_index] for keys, _ in memory_pairs],
            memory_values=[values[image_index] for _, values in memory_pairs],
        )

    def step(self, tokens: Tensor, cache: Cache) -> Tensor:
        """Read the next `tokens` (S, T) and return the logits (S, V) after the last; the cache grows by T."""
        count = tokens.shape[1]
        x = self.embedding(tokens) + self.positions[cache.length : cache.length + count]
        mask = None  # a single token may look at everything before it
        if count > 1:
            mask = torch.ones(count, cache.length + count, dtype=torch.bool, device=x.device).tril(cache.length)
        for index, layer in enumerate(self.layers):
            y = layer.norm_self(x)
            keys, values = cache.append(index, *layer.self_attention.keys_values(y))
            x = x + layer.self_attention(y, keys, values, mask=mask)
            keys, values = cache.memory_keys[index], cache.memory_values[index]
            x = x + layer.cross_attention(layer.norm_cross(x), keys, values)
            x = x + layer.mlp(layer.norm_mlp(x))
        cache.length += count
        return self.logits(x[:, -1])
