"""The autoregressive decoder as it is trained: whole sequences at a time. `step.py` decodes with it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from timm.layers import DropPath
from torch import Tensor, nn

from pix2seq.config import ModelCFG
from pix2seq.models.layers import (
    Attention,
    LayerCFG,
    full_circle,
    init_weights,
    recomputed,
    rotary_1d,
    rotate,
    sincos_1d,
)
from pix2seq.packing import Packing
from pix2seq.token_ids import COORDS

Pairs = list[tuple[Tensor, Tensor]]  # each layer's keys and values of the memory, (B, heads, N, d)


class Rows:
    """Which image each of S sequences is about, so that sequences of one image share its keys and values.

    Copying the memory for every sequence would need gigabytes for a hundred prompts on a large image; instead the
    queries of an image's sequences stand side by side as if they were one longer sequence.
    """

    def __init__(self, image_index: Tensor, images: int) -> None:
        self.image_index, self.images = image_index, images
        counts = image_index.bincount(minlength=images)
        order = image_index.argsort(stable=True)
        first = counts.cumsum(0) - counts  # where each image's sequences begin in `order`
        self.place = torch.empty_like(image_index)
        self.place[order] = torch.arange(len(order), device=order.device) - first[image_index[order]]
        self.most = max(int(counts.max()), 1) if len(order) else 1
        self.aligned = len(image_index) == images and self.most == 1 and bool((order == image_index).all())

    def spread(self, queries: Tensor) -> Tensor:
        """(S, heads, T, d) → (B, heads, most · T, d); places without a sequence are zero."""
        if self.aligned:
            return queries
        _, heads, count, size = queries.shape
        placed = queries.new_zeros(self.images, self.most, heads, count, size)
        placed[self.image_index, self.place] = queries
        return placed.transpose(1, 2).flatten(2, 3)

    def collect(self, heads: Tensor) -> Tensor:
        """What `spread` did, undone."""
        if self.aligned:
            return heads
        apart = heads.unflatten(2, (self.most, heads.shape[2] // self.most)).transpose(1, 2)
        return apart[self.image_index, self.place]

    def keep(self, rows: Tensor) -> tuple[Rows, Tensor]:
        """Only the sequences `rows`, and the images (B',) that they are about."""
        images, image_index = self.image_index[rows].unique(return_inverse=True)
        return Rows(image_index, len(images)), images


class DecoderLayer(nn.Module):
    """Pre-norm self-attention, cross-attention, MLP, in this order."""

    def __init__(self, cfg: LayerCFG) -> None:
        super().__init__()
        self.norm_self = cfg.norm()
        self.self_attention = Attention(cfg)
        self.norm_cross = cfg.norm()
        self.cross_attention = Attention(cfg)
        self.norm_mlp = cfg.norm()
        self.mlp = cfg.mlp()
        self.drop_path = DropPath(cfg.drop_path)

    def cross_attend(self, x: Tensor, pair: tuple[Tensor, Tensor], rows: Rows) -> Tensor:
        """`x` (S, T, D) after cross-attention to the memory's keys and values, (B, heads, N, d)."""
        attention = self.cross_attention
        heads = attention.attend(rows.spread(attention.queries(self.norm_cross(x))), *pair)
        return x + self.drop_path(attention.merge_heads(rows.collect(heads)))

    def forward(self, x: Tensor, memory: Tensor, packing: Packing, angles: Sequence[Tensor | None]) -> Tensor:
        """The tokens `x` (T, D) of a packing after the whole layer; `memory` (B', N, D) is of the images in the order
        of the packing's buckets, `angles` (l, D / heads / 2) are the rotary positions in each bucket of sequences."""
        return recomputed(self, self._compute, x, memory, packing, angles)

    def _compute(self, x: Tensor, memory: Tensor, packing: Packing, angles: Sequence[Tensor | None]) -> Tensor:
        y, attention, buckets = self.norm_self(x), self.self_attention, packing.by_sequence
        spread = [buckets.spread(layer(y)) for layer in (attention.query, attention.key, attention.value)]
        heads = []
        for q, k, v, turn in zip(*spread, angles, strict=True):
            q, k = (rotate(attention.split(part), turn) for part in (q, k))
            heads.append(attention.attend(q, k, attention.split(v), causal=True))
        x = x + self._drop(attention.merge_buckets(heads, buckets), packing)
        attention, buckets = self.cross_attention, packing.by_image
        queries = [attention.split(part) for part in buckets.spread(attention.query(self.norm_cross(x)))]
        pairs = zip(*(part.split([len(q) for q in queries]) for part in attention.keys_values(memory)), strict=True)
        heads = [attention.attend(q, *pair) for q, pair in zip(queries, pairs, strict=True)]
        x = x + self._drop(attention.merge_buckets(heads, buckets), packing)
        return x + self._drop(self.mlp(self.norm_mlp(x)), packing)

    def _drop(self, branch: Tensor, packing: Packing) -> Tensor:
        """The branch (T, D) without the tokens of sequences that skip it."""
        if not (self.training and self.drop_path.drop_prob):
            return branch
        kept = self.drop_path(branch.new_ones(len(packing.image_index), 1))
        return branch * kept.index_select(0, packing.sequences)

    def feed_forward(self, x: Tensor) -> Tensor:
        """`x` (S, T, D) after the MLP."""
        return x + self.drop_path(self.mlp(self.norm_mlp(x)))


class Decoder(nn.Module):
    """Tokens and encoded images to logits; output weights are the token embeddings, unless they are not shared."""

    def __init__(self, cfg: ModelCFG) -> None:
        super().__init__()
        width, layer = cfg.decoder_width, LayerCFG.decoder(cfg)
        self.heads, self.rotary = cfg.decoder_heads, layer.llama
        self.embedding = nn.Embedding(cfg.vocab_size, width)
        if not self.rotary and cfg.decoder_positions == "learned":
            self.positions = nn.Parameter(torch.empty(cfg.max_tokens, width))
            nn.init.trunc_normal_(self.positions, std=0.02)
        elif not self.rotary:
            self.register_buffer("positions", sincos_1d(full_circle(cfg.max_tokens), width), persistent=False)
        self.layers = nn.ModuleList(DecoderLayer(layer) for _ in range(cfg.decoder_layers))
        self.norm = layer.norm()
        if not cfg.shared_embedding:
            self.output = nn.Linear(width, cfg.vocab_size, bias=False)
        self.bias = nn.Parameter(torch.zeros(cfg.vocab_size))
        self.apply(init_weights)
        for table in (self.embedding,) if cfg.shared_embedding else (self.embedding, self.output):
            nn.init.trunc_normal_(table.weight, std=0.02)
        if cfg.coord_init == "sincos" and not self.bias.is_meta:  # there nothing has values
            self._smooth_coordinates()

    @torch.no_grad()
    def _smooth_coordinates(self) -> None:
        """Start coordinate tokens as a sine-cosine code: neighbouring bins are similar before any is trained."""
        bins = torch.arange(COORDS.stop - COORDS.start) / (COORDS.stop - COORDS.start) * 2 * math.pi
        self.embedding.weight[COORDS] = 0.03 * sincos_1d(bins * 50, self.embedding.embedding_dim)

    def project_memory(self, memory: Tensor) -> Pairs:
        """Each layer's keys and values, (B, heads, N, d), of `memory` (B, N, D)."""
        return [layer.cross_attention.keys_values(memory) for layer in self.layers]

    def _embed(self, tokens: Tensor) -> tuple[Tensor, Tensor | None]:
        """Embeddings (S, L, D) of `tokens` (S, L), and their rotary angles."""
        x, length = self.embedding(tokens), tokens.shape[1]
        if not self.rotary:
            return x + self.positions[:length], None
        return x, rotary_1d(torch.arange(length, device=x.device), x.shape[-1] // self.heads)

    def forward(self, tokens: Tensor, memory_pairs: Pairs, image_index: Tensor) -> Tensor:
        """`tokens` (S, L), what `project_memory` gave for B images, `image_index` (S,) → logits (S, L, V)."""
        x, angles = self._embed(tokens)
        rows = Rows(image_index, len(memory_pairs[0][0]))
        for layer, pair in zip(self.layers, memory_pairs, strict=True):
            y, attention = layer.norm_self(x), layer.self_attention
            attended = attention(attention.queries(y, angles), *attention.keys_values(y, angles), causal=True)
            x = layer.feed_forward(layer.cross_attend(x + layer.drop_path(attended), pair, rows))
        return self.logits(x)

    def logits(self, x: Tensor) -> Tensor:
        """(…, D) → (…, V)"""
        table = self.output if hasattr(self, "output") else self.embedding
        return nn.functional.linear(self.norm(x), table.weight, self.bias)

    def score(self, memory: Tensor, packing: Packing) -> Tensor:
        """Logits (n, V) after the n scored tokens of a packing about images encoded as `memory` (B, N, D)."""
        memory = memory.index_select(0, packing.by_image.rows)
        x = self.embedding(packing.tokens)
        if not self.rotary:
            x = x + nn.functional.embedding(packing.positions, self.positions)
        angles = [
            rotary_1d(torch.arange(slots.shape[1], device=x.device), x.shape[-1] // self.heads) if self.rotary else None
            for slots in packing.by_sequence.slots
        ]
        for layer in self.layers:
            x = layer(x, memory, packing, angles)
        return self.logits(x.index_select(0, packing.scored))
