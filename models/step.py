"""A decoder made ready for decoding: a step does the work of one token, in the precision that was asked for.

It computes what `Decoder` does, with weights joined where they read the same input, and laid out as `dense.py` tells.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from functools import cached_property
from weakref import WeakKeyDictionary

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pix2seq.models.choices import Part
from pix2seq.models.decoder import Decoder, DecoderLayer, Rows
from pix2seq.models.dense import Dense, as_array, joined
from pix2seq.models.graph import Recorded, StepGraph
from pix2seq.models.layers import MLP, rotary_1d, rotate
from pix2seq.models.sampling import LEAVING
from pix2seq.models.single import SingleDecoder, SingleLayer
from pix2seq.runtime.device import computes_bf16, has_numba
from pix2seq.runtime.threads import threads_for

FEW_QUERIES = 8  # up to which plain products read keys and values faster than the fused kernel does, on a processor


class Pair:
    """Keys and values (B, heads, N, d) of a layer; those of the first tokens are there from the beginning, or written.

    Heads of all sequences stand in one dimension, and keys are transposed, so that a step makes few tensors.
    """

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.shape, self._keys, self._values = keys.shape[:2], keys.flatten(0, 1), values.flatten(0, 1)
        self._columns = self._keys.transpose(1, 2)

    @property
    def places(self) -> int:
        """N"""
        return self._keys.shape[1]

    @cached_property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Keys and values (heads, N, d) of a single row of B, on a processor, as `as_array` has them."""
        return as_array(self._keys), as_array(self._values)

    def keep(self, rows: Tensor, filled: int) -> Pair:
        """Those of some rows of B, which move to the front; only the first `filled` places hold anything to be moved.
        What is moved over is lost."""
        parts = []
        for part in (self._keys, self._values):
            part = part.unflatten(0, self.shape)
            part[: len(rows), :, :filled] = part[rows, :, :filled]
            parts.append(part[: len(rows)])
        return Pair(*parts)

    def write(self, start: int | Tensor, keys: Tensor, values: Tensor) -> None:
        """Put `keys` and `values` (B · heads, T, d) at the places from `start` on, or at those in a tensor."""
        if isinstance(start, Tensor):
            self._keys.index_copy_(1, start, keys)
            self._values.index_copy_(1, start, values)
            return
        self._keys.narrow(1, start, keys.shape[1]).copy_(keys)
        self._values.narrow(1, start, keys.shape[1]).copy_(values)

    def attend(self, queries: Tensor, length: int, mask: Tensor | None = None) -> Tensor:
        """What `queries` (B · heads, T, d), scaled already, read from the first `length` places: (B · heads, T, d).

        A single token may attend to all of them; `mask` (T, length) is True where each of several may.
        """
        columns, values = self._columns.narrow(2, 0, length), self._values.narrow(1, 0, length)
        if queries.device.type != "cpu" or queries.shape[1] > FEW_QUERIES:
            parts = (part.unflatten(0, self.shape) for part in (queries, columns.transpose(1, 2), values))
            return F.scaled_dot_product_attention(*parts, attn_mask=mask, scale=1.0).flatten(0, 1)
        scores = product(queries, columns) if queries.shape[1] == 1 else torch.bmm(queries, columns)
        if mask is not None:
            scores = scores.masked_fill(~mask, -torch.inf)
        return product(scores.softmax(-1), values)


def product(x: Tensor, y: Tensor) -> Tensor:
    """`torch.bmm` on a processor, for few rows: on one thread by numpy, which takes half the time."""
    if torch.compiler.is_compiling() or torch.get_num_threads() > 1 or x.dtype != torch.float32:
        return torch.bmm(x, y)
    return torch.from_numpy(np.matmul(x.numpy(), y.numpy()))


@dataclass
class Cache:
    """What a decoding step needs of the past, by layer: keys and values of the tokens so far, `own`, of which `length`
    places are filled, and those of the memory, which are computed once.

    Sequences that have ended are best dropped once they are the share `leaving`. `graph` are steps with it as it is.
    """

    own: list[Pair]
    memory: list[Pair]
    rows: Rows
    leaving: float = LEAVING
    length: int = 0
    graph: StepGraph | None = None

    @torch.inference_mode()
    def keep(self, rows: Tensor) -> None:
        """Forget all sequences but `rows`, and the images that none of them is about."""
        self.graph = None
        self.own = [pair.keep(rows, self.length) for pair in self.own]
        images_before = self.rows.images
        self.rows, images = self.rows.keep(rows)
        if len(images) < images_before:
            self.memory = [pair.keep(images, pair.places) for pair in self.memory]


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
        parts = self.own, self.own_out, self.cross_query, self.cross_out, self.up, self.down
        self.multiplications = sum(part.multiplications for part in parts)  # for a token

    def _split(self, x: Tensor, sequences: int) -> Tensor:
        """(S · T, D) → (S · heads, T, d)"""
        width = x.shape[1] // self.heads
        if len(x) == sequences:
            return x.reshape(-1, 1, width)
        return x.reshape(sequences, -1, self.heads, width).transpose(1, 2).flatten(0, 1)

    def _merge(self, heads: Tensor, sequences: int) -> Tensor:
        """(S · heads, T, d) → (S · T, D)"""
        if heads.shape[1] == 1:
            return heads.view(sequences, -1)
        return heads.unflatten(0, (sequences, -1)).transpose(1, 2).flatten(2).flatten(0, 1)

    def project_memory(self, memory: Tensor) -> Pair:
        """Keys and values of `memory` (B, N, D)."""
        parts = self.memory(memory.flatten(0, 1)).chunk(2, dim=1)
        return Pair(*(self._split(part, len(memory)).unflatten(0, (-1, self.heads)).contiguous() for part in parts))

    def forward(
        self,
        x: Tensor,
        own: Pair,
        memory: Pair,
        rows: Rows,
        start: int | Tensor,
        end: int,
        angles: Tensor | None,
        mask: Tensor | None,
    ) -> Tensor:
        """`x` (S · T, D) after the layer. Keys and values of its tokens are written to `own` at `start`, of which the
        places before `end` are read."""
        sequences = own.shape[0]
        queries, keys, values = (self._split(part, sequences) for part in self.own(self.norm_self(x)).chunk(3, dim=1))
        if angles is not None:
            queries, keys = rotate(queries, angles), rotate(keys, angles)
        own.write(start, keys, values)
        x = x + self.own_out(self._merge(own.attend(queries, end, mask), sequences))
        queries = self._split(self.cross_query(self.norm_cross(x)), sequences)
        if rows.aligned:
            attended = memory.attend(queries, memory.places)
        else:
            spread = rows.spread(queries.unflatten(0, (sequences, -1))).flatten(0, 1)
            attended = rows.collect(memory.attend(spread, memory.places).unflatten(0, memory.shape)).flatten(0, 1)
        x = x + self.cross_out(self._merge(attended, sequences))
        return x + self.down(self.activate(self.up(self.norm_mlp(x))))

    def activate(self, x: Tensor) -> Tensor:
        """The activation of the MLP, halving its width where it is gated."""
        if not self.gated:
            return F.gelu(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up


class StepDecoder(nn.Module):
    """A copy of the weights of `decoder` that decodes. Letters are those of `Pix2Seq`.

    `precision` is that of the layers' weights, and of what passes between them (on a processor fp32 where weights are
    fp16 or int8).
    The output projection and the norm before it are always fp32: logits of neighboring bins differ by little.
    `compiled` steps of one token are CUDA graphs on a GPU; on a processor with numba, this makes those of one sequence,
    whose caches are bf16 where weights are narrower than fp32; elsewhere torch.compile makes all of them.
    """

    def __init__(self, decoder: Decoder, precision: str = "fp32", compiled: bool = False) -> None:
        super().__init__()
        table = decoder.output if hasattr(decoder, "output") else decoder.embedding
        self.vocabulary, self.bias = table.weight.detach(), decoder.bias.detach()
        on_processor = self.bias.device.type == "cpu"
        by_numba = compiled and has_numba(self.bias.device)
        narrow = precision == "bf16" or (
            precision == "int8" and (by_numba or not on_processor) and computes_bf16(self.bias.device)
        )
        self.precision, self.dtype = precision, torch.bfloat16 if narrow else torch.float32
        self.embedding, self.norm = decoder.embedding.weight.detach(), decoder.norm
        self.heads, self.rotary = decoder.heads, decoder.rotary
        self.positions = None if self.rotary else decoder.positions
        self.layers = nn.ModuleList(StepLayer(layer, precision, self.dtype) for layer in decoder.layers)
        self.multiplications = sum(layer.multiplications for layer in self.layers)
        self.static = self.single = None
        if by_numba:
            from pix2seq.models.compiled import CompiledLayer

            self.single = SingleDecoder(self, CompiledLayer)
        elif compiled:
            on_gpu = self.bias.device.type == "cuda"
            self.static = Recorded(self._static_run) if on_gpu else torch.compile(self._static_run)
        elif on_processor and not narrow:
            self.single = SingleDecoder(self, SingleLayer)
        self.parts: WeakKeyDictionary[Part, Dense] = WeakKeyDictionary()
        self.whole: Dense | None = None

    @torch.inference_mode()
    def start(self, memory: Tensor, image_index: Tensor, max_length: int) -> Cache:
        """An empty cache for S sequences of at most `max_length` tokens, prompt included, over `memory` (B, N, D)."""
        memory = memory.to(self.dtype)
        shape = len(image_index), self.heads, max_length, self.embedding.shape[1] // self.heads
        own = [Pair(memory.new_zeros(shape), memory.new_zeros(shape)) for _ in self.layers]
        pairs = [layer.project_memory(memory) for layer in self.layers]
        leaving = Recorded.LEAVING if isinstance(self.static, Recorded) else LEAVING
        return Cache(own, pairs, Rows(image_index, len(memory)), leaving)

    @torch.inference_mode()
    def step(self, tokens: Tensor, cache: Cache, part: Part | None = None) -> Tensor:
        """Read the next `tokens` (S, T) and return the logits (S, K) of a part of the vocabulary after the last, of all
        of it (S, V) by default; the cache grows by T."""
        with threads_for(tokens.numel() * self.multiplications):
            if self.single is not None and tokens.shape == (1, 1) and cache.rows.images == 1:
                cache.length += 1
                x = self.single(int(tokens), cache, cache.length - 1)
                return torch.from_numpy(self._output(part).single(x))[None]
            return self._output(part)(self._hidden(tokens, cache))

    def _hidden(self, tokens: Tensor, cache: Cache) -> Tensor:
        """What the last layer makes of the last of `tokens` (S, T), normalized: (S, D)."""
        start, end = cache.length, cache.length + tokens.shape[1]
        cache.length = end
        places = torch.arange(start, end, device=tokens.device)
        if tokens.shape[1] > 1:
            return self._run(
                tokens, cache, places, start, end, torch.arange(end, device=places.device) <= places[:, None]
            )
        return (
            self._run(tokens, cache, places, start, end, None)
            if self.static is None
            else self.static(tokens, cache, places)
        )

    def _static_run(self, tokens: Tensor, cache: Cache, places: Tensor) -> Tensor:
        """`_run` for one token at `places` (1,), whose shapes do not depend on the place: all of the cache is read."""
        end = cache.own[0].places
        mask = torch.arange(end, device=places.device) <= places[:, None]
        return self._run(tokens, cache, places, places, end, mask)

    def _run(
        self, tokens: Tensor, cache: Cache, places: Tensor, start: int | Tensor, end: int, mask: Tensor | None
    ) -> Tensor:
        x, angles = F.embedding(tokens, self.embedding), None
        if self.rotary:
            angles = rotary_1d(places, x.shape[-1] // self.heads)
        else:
            x = x + self.positions[places]
        x = x.flatten(0, 1).to(self.dtype)
        for layer, own, memory in zip(self.layers, cache.own, cache.memory, strict=True):
            x = layer(x, own, memory, cache.rows, start, end, angles, mask)
        return self.norm(x.view(*tokens.shape, -1)[:, -1].float())

    def _output(self, part: Part | None) -> Dense:
        """The output projection to a part of the vocabulary, or to all of it."""
        if part is None:
            self.whole = self.whole or Dense(self.vocabulary, self.bias)
            return self.whole
        if part not in self.parts:
            self.parts[part] = Dense(self.vocabulary[part.ids], self.bias[part.ids])
        return self.parts[part]
