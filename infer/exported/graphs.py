"""A trained model as two ONNX graphs.

- The **encoder** takes canvases (B, 3, H, W) in [0, 1] to keys and values of cross-attention, `memory_keys_0`,
  `memory_values_0`, … (B, heads, N, d) of each decoder layer, which are so computed once.
- The **step** takes `tokens` (B, G) of G sequences about each of B canvases, these keys and values, and those of the
  tokens before, `past_keys_0`, … (B, G, heads, P, d), P from 0 on, to `logits` (B, G, V) and `new_keys_0`, …
  (B, G, heads, P + 1, d).

Both compute with the layers as they are trained. Caches grow, since a graph cannot write into its inputs: a cache of
full length would be copied and read as a whole at every step, a growing one as far as it is filled.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from timm.layers import Conv2dSame
from torch import Tensor, nn
from torch.export import Dim

from pix2seq.infer.onnx_predictor import MEMORY, NEW, PAST
from pix2seq.infer.views import STEP as SIDE_STEP
from pix2seq.models.layers import rotary_1d
from pix2seq.models.pix2seq import Pix2Seq

if TYPE_CHECKING:
    import onnx

MOST = 4096  # canvases, or sequences about each; torch wants to know that there is a limit
TRACED = 2, 3, 5  # canvases, sequences and past tokens of the inputs that the graphs are traced with


class EncoderGraph(nn.Module):
    """Canvases (B, 3, H, W) in [0, 1] to keys and values of each layer, (B, heads, N, d)."""

    def __init__(self, model: Pix2Seq) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        pairs = self.model.decoder.project_memory(self.model.encode(images))
        return tuple(part for pair in pairs for part in pair)


class Groups:
    """As many sequences about each of B canvases: what `decoder.Rows` is for any number about each."""

    def __init__(self, images: int, each: int) -> None:
        self.shape = images, each

    def spread(self, queries: Tensor) -> Tensor:
        """(B · G, heads, 1, d) → (B, heads, G, d)"""
        return queries.squeeze(2).unflatten(0, self.shape).transpose(1, 2)

    def collect(self, heads: Tensor) -> Tensor:
        """What `spread` did, undone."""
        return heads.transpose(1, 2).flatten(0, 1).unsqueeze(2)


class StepGraph(nn.Module):
    """One more token of each sequence, with caches."""

    def __init__(self, model: Pix2Seq) -> None:
        super().__init__()
        self.decoder = model.decoder

    def forward(self, tokens: Tensor, past: Sequence[Tensor], memory: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """See the module; `past` and `memory` are keys and values of the layers in turn."""
        decoder, place = self.decoder, past[0].shape[3]
        groups, new = Groups(*tokens.shape), []
        places = torch.arange(place, place + 1)
        x, angles = decoder.embedding(tokens.flatten())[:, None], None  # (B · G, 1, D)
        if decoder.rotary:
            angles = rotary_1d(places, x.shape[-1] // decoder.heads)
        else:
            x = x + F.embedding(places, decoder.positions)
        for number, layer in enumerate(decoder.layers):
            each = slice(2 * number, 2 * number + 2)
            y, attention = layer.norm_self(x), layer.self_attention
            pair = zip(past[each], attention.keys_values(y, angles), strict=True)
            keys, values = (torch.cat([before.flatten(0, 1), now], dim=2) for before, now in pair)
            x = x + attention(attention.queries(y, angles), keys, values)
            x = layer.feed_forward(layer.cross_attend(x, memory[each], groups))
            new += [part.unflatten(0, groups.shape) for part in (keys, values)]
        return decoder.logits(x[:, 0]).unflatten(0, groups.shape), *new


def make_encoder(model: Pix2Seq) -> onnx.ModelProto:
    """The encoder graph of a model in evaluation mode, for canvases of one side, or of any multiple of 32 if it can."""
    side, flexible = model.cfg.image_size, has_any_side(model)
    encoder = EncoderGraph(_with_known_padding(model) if flexible else model)
    shape: dict[int, Any] = {0: Dim("canvases", max=MOST)}
    if flexible:
        cells = Dim("cells", min=2, max=MOST // SIDE_STEP)
        shape |= {2: SIDE_STEP * cells, 3: SIDE_STEP * cells}
    images = torch.rand(TRACED[0], 3, side, side)
    return _export(encoder, (images,), (shape,), ["images"], _names(model, MEMORY))


def make_step(model: Pix2Seq) -> onnx.ModelProto:
    """The step graph of a model in evaluation mode."""
    canvases, sequences, length = TRACED
    layers, heads = len(model.decoder.layers), model.decoder.heads
    width = model.cfg.decoder_width // heads
    past = [torch.rand(canvases, sequences, heads, length, width) for _ in range(2 * layers)]
    memory = [torch.rand(canvases, heads, 7, width) for _ in range(2 * layers)]
    b, g, p, n = (Dim(name, max=MOST) for name in ("canvases", "sequences", "length", "places"))
    shapes = {0: b, 1: g}, [{0: b, 1: g, 3: p}] * len(past), [{0: b, 2: n}] * len(memory)
    tokens = torch.zeros(canvases, sequences, dtype=torch.long)
    inputs = ["tokens", *_names(model, PAST), *_names(model, MEMORY)]
    return _export(StepGraph(model), (tokens, past, memory), shapes, inputs, ["logits", *_names(model, NEW)])


def has_any_side(model: Pix2Seq) -> bool:
    """Whether the model takes canvases of other sides: a convnet without learned positions, whose own side is a
    multiple of 32 as those of larger and smaller views are."""
    backbone = model.encoder.backbone
    positions = (model.encoder.positions, model.projection.positions)
    is_convnet = not backbone.is_vit and not backbone.is_patches
    learned = any(part is not None and part.weight is not None for part in positions)
    return is_convnet and not learned and model.cfg.image_size % SIDE_STEP == 0


def _names(model: Pix2Seq, begin: str) -> list[str]:
    return [f"{begin}{part}_{layer}" for layer in range(len(model.decoder.layers)) for part in ("keys", "values")]


def _export(
    module: nn.Module, inputs: tuple, shapes: tuple, input_names: list[str], output_names: list[str]
) -> onnx.ModelProto:
    """By torch's exporter that reads the graph of `torch.export`: the one that is kept up, and that checks that no size
    which is to vary became a constant."""
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # about ways of its own
        program = torch.onnx.export(
            module.eval(),
            inputs,
            dynamic_shapes=shapes,
            input_names=input_names,
            output_names=output_names,
            dynamo=True,
            verbose=False,
        )
    graph = program.model_proto
    del graph.metadata_props[:], graph.graph.metadata_props[:], graph.graph.value_info[:]
    for node in graph.graph.node:  # where in torch's source it came from
        del node.metadata_props[:]
        node.doc_string = ""
    return graph


class _KnownPadding(nn.Module):
    """TensorFlow's "same" padding in front of a convolution, for sides that its stride divides."""

    def __init__(self, conv: Conv2dSame) -> None:
        super().__init__()
        self.conv, self.pads = conv, []
        for size, stride, dilation in zip(conv.kernel_size[::-1], conv.stride[::-1], conv.dilation[::-1], strict=True):
            total = max((size - 1) * dilation + 1 - stride, 0)
            self.pads += [total // 2, total - total // 2]

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        x = F.pad(x, self.pads)
        return F.conv2d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation, conv.groups)


def _with_known_padding(model: Pix2Seq) -> Pix2Seq:
    """A copy whose paddings are numbers: torch.export would make each of them a formula of the canvas's side."""
    model = copy.deepcopy(model)
    for module in list(model.encoder.backbone.modules()):
        for name, child in module.named_children():
            if isinstance(child, Conv2dSame):
                setattr(module, name, _KnownPadding(child))
    return model
