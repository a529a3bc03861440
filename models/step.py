"""A decoder made ready for decoding: a step does the work of one token, in the precision that was asked for.

It computes what `Decoder` does, with weights joined where they read the same input, and laid out as `dense.py` tells.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2seq.models.choices import Part
from pix2seq.models.decoder import Decoder, DecoderLayer, Rows
from pix2seq.models.dense import Dense, joined
from pix2seq.models.layers import MLP, rotary_1d, rotate
from pix2seq.runtime.threads import threads_for

FEW_QUERIES = 8  # up to which plain products read keys and values faster than the fused kernel does, on a processor


@dataclass
class Cache:
    """What a decoding step needs of the past: per layer, keys and values of the tokens so far and of the memory.

    `own[i]` (2, S, heads, max length, d) are filled up to `length`; `memory[i]` (2, B, heads, N, d) are computed once.
    """

    own: list[Tensor]
    memory: list[Tensor]
    rows: Rows
    length: int = 0

    def keep(self, rows: Tensor) -> None:
        """Forget all sequences but `rows`, and the images that none of them is about."""
        self.own = [pair[:, rows] for pair in self.own]
        images_before = self.rows.images
        self.rows, images = self.rows.keep(rows)
        if len(images) < images_before:
            self.memory = [pair[:, images] for pair in self.memory]


def attend(queries: Tensor, pair: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention of `queries` (B, heads, T, d), which are scaled already, to keys and values (2, B, heads, N, d)."""
    if queries.device.type != "cpu" or queries.shape[2] > FEW_QUERIES:
        return F.scaled_dot_product_attention(queries, *pair, attn_mask=mask, scale=1.0)
    weights = queries @ pair[0].transpose(-1, -2)
    if mask is not None:
        weights = weights.masked_fill(~mask, -torch.inf)
    return weights.softmax(-1) @ pair[1]


class StepLayer(nn.Module):
    """A `DecoderLayer` whose attention reads keys and values from a cache; `dtype` is that of activations."""

    def __init__(self, layer: DecoderLayer, precision: str, dtype: torch.dtype) -> None:
        super().__init__()
        own, cross, mlp = layer.self_attention, layer.cross_attention, layer.mlp
        self.heads = own.heads
        scale = (own.query.in_features // own.heads) ** -0.5  # once here, and not of the queries of every step
        norms = layer.norm_self, layer.norm_cross, layer.norm_mlp
        self.norm_self, self.norm_cross, self.norm_mlp = (copy.deepcopy(norm).to(dtype) for norm in norms)
        self.own = joined([own.query, own.key, own.value], precision, [scale, 1, 1])
        self.own_out = joined([own.out], precision)
        self.cross_query = joined([cross.query], precision, [scale])
        self.cross_out = joined([cross.out], precision)
        self.memory = joined([cross.key, cross.value], "bf16" if dtype == torch.bfloat16 else "fp32")
        self.gated = not isinstance(mlp, MLP)
        self.up = joined([mlp.gate, mlp.up] if self.gated else [mlp.up], precision)
        self.down = joined([mlp.down], precision)

    def _split(self, x: Tensor, rows: int, parts: int) -> Tensor:
        """(rows · T, parts · D) → (parts, rows, heads, T, d)"""
        return x.view(rows, -1, parts, self.heads, x.shape[1] // parts // self.heads).permute(2, 0, 3, 1, 4)

    def project_memory(self, memory: Tensor) -> Tensor:
        """Keys and values (2, B, heads, N, d) of `memory` (B, N, D)."""
        return self._split(self.memory(memory.flatten(0, 1)), len(memory), 2).contiguous()

    def forward(
        self,
        x: Tensor,
        past: Tensor,
        memory: Tensor,
        rows: Rows,
        start: int,
        angles: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """`x` (S · T, D) after the layer. Keys and values of its tokens join the `start` ones that `past` holds."""
        sequences, end = past.shape[1], start + len(x) // past.shape[1]
        queries, *pair = self._split(self.own(self.norm_self(x)), sequences, 3)
        queries, pair[0] = rotate(queries, angles), rotate(pair[0], angles)
        past[0, :, :, start:end], past[1, :, :, start:end] = pair
        x = x + self.own_out(_merge(attend(queries, past[:, :, :, :end], mask)))
        queries = rows.spread(self._split(self.cross_query(self.norm_cross(x)), sequences, 1)[0])
        x = x + self.cross_out(_merge(rows.collect(attend(queries, memory))))
        return x + self.down(self._activate(self.up(self.norm_mlp(x))))

    def _activate(self, x: Tensor) -> Tensor:
        if not self.gated:
            return F.gelu(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


def _merge(heads: Tensor) -> Tensor:
    """(S, heads, T, d) → (S · T, D)"""
    return heads.transpose(1, 2).flatten(2).flatten(0, 1)


class StepDecoder(nn.Module):
    """A copy of the weights of `decoder` that decodes. Letters are those of `Pix2Seq`.

    `precision` is that of the layers' weights, and of what passes between them (fp32 with int8 weights on a processor).
    The output projection and the norm before it are always fp32: logits of neighboring bins differ by little.
    """

    def __init__(self, decoder: Decoder, precision: str = "fp32") -> None:
        super().__init__()
        table = decoder.output if hasattr(decoder, "output") else decoder.embedding
        self.vocabulary, self.bias = table.weight.detach(), decoder.bias.detach()
        on_processor = self.bias.device.type == "cpu"
        narrow = precision == "bf16" or (precision == "int8" and not on_processor)
        self.dtype = torch.bfloat16 if narrow else torch.float32
        self.embedding, self.norm = decoder.embedding, decoder.norm
        self.heads, self.rotary = decoder.heads, decoder.rotary
        self.positions = None if self.rotary else decoder.positions
        self.layers = nn.ModuleList(StepLayer(layer, precision, self.dtype) for layer in decoder.layers)
        self.multiplications = sum(weight.numel() for weight in self.layers.buffers() if weight.ndim == 2)
        self.parts: WeakKeyDictionary[Part, Dense] = WeakKeyDictionary()
        self.whole: Dense | None = None

    @torch.inference_mode()
    def start(self, memory: Tensor, image_index: Tensor, max_length: int) -> Cache:
        """An empty cache for S sequences of at most `max_length` tokens, prompt included, over `memory` (B, N, D)."""
        memory = memory.to(self.dtype)
        width = self.embedding.embedding_dim
        shape = (2, len(image_index), self.heads, max_length, width // self.heads)
        own = [memory.new_empty(shape) for _ in self.layers]
        return Cache(own, [layer.project_memory(memory) for layer in self.layers], Rows(image_index, len(memory)))

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: Cache, part: Part | None = None) -> Tensor:
        """Read the next `tokens` (S, T) and return the logits (S, K) of a part of the vocabulary after the last, of all
        of it (S, V) by default; the cache grows by T."""
        with threads_for(tokens.numel() * self.multiplications):
            return self._project(self._hidden(tokens, cache), part)

    def _hidden(self, tokens: Tensor, cache: Cache) -> Tensor:
        """What the last layer makes of the last of `tokens` (S, T), normalized: (S, D)."""
        count, start = tokens.shape[1], cache.length
        places = torch.arange(start, start + count, device=tokens.device)
        x, angles, mask = self.embedding(tokens), None, None
        if self.rotary:
            angles = rotary_1d(places, x.shape[-1] // self.heads)
        else:
            x = x + self.positions[start : start + count]
        if count > 1:  # a single token may attend to everything before it
            mask = torch.arange(start + count, device=tokens.device) <= places[:, None]
        x = x.flatten(0, 1).to(self.dtype)
        for layer, own, memory in zip(self.layers, cache.own, cache.memory, strict=True):
            x = layer(x, own, memory, cache.rows, start, angles, mask)
        cache.length += count
        return self.norm(x.view(len(tokens), count, -1)[:, -1].float())

    def _project(self, x: Tensor, part: Part | None) -> Tensor:
        """Logits (S, K) of a part of the vocabulary, or of all of it."""
        if part is None:
            self.whole = self.whole or Dense(self.vocabulary, self.bias)
            return self.whole(x)
        if part not in self.parts:
            self.parts[part] = Dense(self.vocabulary[part.ids], self.bias[part.ids])
        return self.parts[part](x)
