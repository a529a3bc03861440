"""A layer of a decoding step of one sequence on a processor, compiled by numba.

A step takes the time of reading its weights and caches, so each loop here reads one array from its first byte to its
last. What is kept in bf16 or int8 is half or a quarter of the bytes, and widened in a register; all sums are fp32.
Nothing that is compiled is kept in a file, as numba would load it as a pickle.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numba import njit, types
from numba.extending import overload
from torch import nn

from pix2seq.models.dense import as_array

if TYPE_CHECKING:
    from pix2seq.models.step import Pair, StepLayer

F32, I32, U32 = np.float32, np.int32, np.uint32
HALF, ONE, ROOT_HALF = F32(0.5), F32(1), F32(math.sqrt(0.5))
LOG2_E = F32(math.log2(math.e))

# The first may add up in another order, and so in vectors; both treat infinity and NaN as they are. Neither releases
# Python's lock, which guards a layer's scratch where several threads decode.
kernel = njit(fastmath={"reassoc", "contract", "arcp", "nsz"}, error_model="numpy")
in_order = njit(fastmath={"contract"}, error_model="numpy")

NO_TURNS = np.empty(0, np.float32)


class CompiledLayer:
    """What `SingleLayer` is, with a copy of the weights in the order in which a step reads them.

    These and the scratch begin at multiples of 64 bytes, so that no vector crosses a cache line.
    """

    def __init__(self, layer: StepLayer) -> None:
        blocks = (
            (layer.norm_self, layer.own, layer.own_out),
            (layer.norm_cross, layer.cross_query, layer.cross_out),
            (layer.norm_mlp, layer.up, layer.down),
        )
        matrices: list[torch.Tensor] = []
        vectors: list[torch.Tensor] = []
        for norm, *denses in blocks:
            vectors += [norm.weight, _or_zeros(getattr(norm, "bias", None), norm.weight)]
            for dense in denses:
                weight, scale = dense.rows()
                matrices.append(weight.flatten())
                vectors += [scale, _or_zeros(dense.bias, scale)]
        self.matrices = in_large_pages(as_array(torch.cat(matrices)))
        self.vectors = as_array(torch.cat([vector.detach().float() for vector in vectors]))
        width, hidden = len(norm.weight), weight.shape[1]  # `weight` is that of the last one
        self.scratch = [torch.empty(size).numpy() for size in (width, width, max(3 * width, 2 * hidden))]
        self.hidden, self.style = hidden, (isinstance(norm, nn.LayerNorm), norm.eps, layer.gated)

    def __call__(self, x: np.ndarray, own: Pair, memory: Pair, place: int, angles: torch.Tensor | None) -> np.ndarray:
        """`x` after the layer, in its place. Its key and value are written to `own` at `place`, and those before are
        read."""
        turns = NO_TURNS if angles is None else angles[0].numpy()
        layer = self.matrices, self.vectors, self.hidden, *self.style
        step(x, *layer, *own.arrays, *memory.arrays, place, turns, *self.scratch)
        return x


def in_large_pages(x: np.ndarray) -> np.ndarray:
    """A copy of `x` (n,) that begins at a multiple of 64 bytes, in pages of 2 MB where the system has them: numpy asks
    for such pages, torch does not."""
    buffer = np.empty(x.nbytes + 64, np.uint8)
    start = -buffer.ctypes.data % 64
    copy = buffer[start : start + x.nbytes].view(x.dtype)
    copy[:] = x
    return copy


def _or_zeros(bias: torch.Tensor | None, like: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(like) if bias is None else bias


@kernel
def step(
    x: np.ndarray,
    matrices: np.ndarray,
    vectors: np.ndarray,
    hidden: int,
    centered: bool,
    eps: float,
    gated: bool,
    own_keys: np.ndarray,
    own_values: np.ndarray,
    memory_keys: np.ndarray,
    memory_values: np.ndarray,
    place: int,
    turns: np.ndarray,
    y: np.ndarray,
    attended: np.ndarray,
    wide: np.ndarray,
) -> None:
    """Turn `x` (D,) into what the layer makes of it. Keys and values are (heads, N, d); `turns` (d / 2,) or (0,);
    `y`, `attended` (D,) and `wide` (max(3 D, 2 hidden),) are overwritten."""
    width, heads = len(x), len(own_keys)
    scores = np.empty(max(memory_keys.shape[1], place + 1), F32)

    vectors = normalize(x, vectors, centered, eps, y)
    matrices, vectors = product(matrices, vectors, y, wide[: 3 * width])
    queries = wide[:width].reshape(heads, -1)
    keys, values = wide[width : 2 * width].reshape(heads, -1), wide[2 * width : 3 * width].reshape(heads, -1)
    if len(turns):
        rotate(queries, turns)
        rotate(keys, turns)
    for head in range(heads):
        narrow(keys[head], own_keys[head, place])
        narrow(values[head], own_values[head, place])
    attend(queries, own_keys, own_values, place + 1, scores, attended)
    matrices, vectors = product(matrices, vectors, attended, y)
    x += y

    vectors = normalize(x, vectors, centered, eps, y)
    matrices, vectors = product(matrices, vectors, y, queries.reshape(-1))
    attend(queries, memory_keys, memory_values, memory_keys.shape[1], scores, attended)
    matrices, vectors = product(matrices, vectors, attended, y)
    x += y

    vectors = normalize(x, vectors, centered, eps, y)
    if gated:
        matrices, vectors = product(matrices, vectors, y, wide[: 2 * hidden])
        gate(wide[:hidden], wide[hidden : 2 * hidden])
    else:
        matrices, vectors = product(matrices, vectors, y, wide[:hidden])
        gelu(wide[:hidden])
    product(matrices, vectors, wide[:hidden], y)
    x += y


@kernel
def product(matrices: np.ndarray, vectors: np.ndarray, x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Write to `y` what the next linear layer makes of `x`; return the `matrices` and `vectors` that follow."""
    inputs, outputs = len(x), len(y)
    scale, bias = vectors[:outputs], vectors[outputs : 2 * outputs]
    for output in range(outputs):
        row = matrices[output * inputs : (output + 1) * inputs]
        total = F32(0)
        for i in range(inputs):
            total += widen(row[i]) * x[i]
        y[output] = total * scale[output] + bias[output]
    return matrices[inputs * outputs :], vectors[2 * outputs :]


@kernel
def normalize(x: np.ndarray, vectors: np.ndarray, centered: bool, eps: float, y: np.ndarray) -> np.ndarray:
    """Write to `y` the LayerNorm of `x`, or the RMSNorm; return the `vectors` that follow."""
    width = len(x)
    weight, bias = vectors[:width], vectors[width : 2 * width]
    mean = F32(0)
    if centered:
        for i in range(width):
            mean += x[i]
        mean /= F32(width)
    square = F32(0)
    for i in range(width):
        square += (x[i] - mean) * (x[i] - mean)
    factor = F32(1 / math.sqrt(square / F32(width) + eps))
    for i in range(width):
        y[i] = (x[i] - mean) * factor * weight[i] + bias[i]
    return vectors[2 * width :]


@kernel
def attend(
    queries: np.ndarray, keys: np.ndarray, values: np.ndarray, count: int, scores: np.ndarray, y: np.ndarray
) -> None:
    """Write to `y` (D,) what `queries` (heads, d), scaled already, read from the first `count` keys and values."""
    heads, width = queries.shape
    for head in range(heads):
        largest = F32(-np.inf)
        for place in range(count):
            score = F32(0)
            for i in range(width):
                score += widen(keys[head, place, i]) * queries[head, i]
            scores[place] = score
            largest = max(largest, score)
        total = F32(0)
        for place in range(count):
            scores[place] = exp(scores[place] - largest)
            total += scores[place]
        read = y[head * width : (head + 1) * width]
        read[:] = F32(0)
        fours = count // 4 * 4
        for place in range(0, fours, 4):  # what was read so far is loaded and stored once for four values
            some = scores[place : place + 4]
            rows = values[head, place : place + 4]
            for i in range(width):
                read[i] += (
                    some[0] * widen(rows[0, i])
                    + some[1] * widen(rows[1, i])
                    + some[2] * widen(rows[2, i])
                    + some[3] * widen(rows[3, i])
                )
        for place in range(fours, count):
            for i in range(width):
                read[i] += scores[place] * widen(values[head, place, i])
        for i in range(width):
            read[i] /= total


@kernel
def rotate(heads: np.ndarray, turns: np.ndarray) -> None:
    """Turn the pairs of channels (i, i + d / 2) of each head (d,), as `layers.rotate` does."""
    half = len(turns)
    for i in range(half):
        cos, sin = F32(math.cos(turns[i])), F32(math.sin(turns[i]))
        for head in heads:
            first, second = head[i], head[half + i]
            head[i], head[half + i] = first * cos - second * sin, second * cos + first * sin


@kernel
def gelu(x: np.ndarray) -> None:
    """The exact GELU of `x`, in its place: erf by Abramowitz and Stegun's 7.1.26, off by 1.5e-7 at most."""
    for i in range(len(x)):
        z = abs(x[i]) * ROOT_HALF
        t = ONE / (ONE + F32(0.3275911) * z)
        tail = F32(1.061405429)
        tail = tail * t + F32(-1.453152027)
        tail = tail * t + F32(1.421413741)
        tail = tail * t + F32(-0.284496736)
        tail = tail * t + F32(0.254829592)
        erf = ONE - tail * t * exp(-z * z)
        x[i] = HALF * (x[i] + abs(x[i]) * erf)


@kernel
def gate(x: np.ndarray, up: np.ndarray) -> None:
    """SiLU of `x`, times `up`, in its place."""
    for i in range(len(x)):
        x[i] = x[i] / (ONE + exp(-x[i])) * up[i]


@in_order
def exp(x: float) -> float:
    """e to the power of `x` in fp32, correct to two units in the last place, in operations that vectors have; powers
    of two beyond ±126 are cut off (Cephes)."""
    power = np.floor(min(max(x * LOG2_E, F32(-126)), F32(126)) + HALF)
    rest = x - power * F32(0.693359375) + power * F32(2.12194440e-4)  # ln 2 in two parts
    series = F32(1.9875691500e-4)
    series = series * rest + F32(1.3981999507e-3)
    series = series * rest + F32(8.3334519073e-3)
    series = series * rest + F32(4.1665795894e-2)
    series = series * rest + F32(1.6666665459e-1)
    series = series * rest + HALF
    return (series * rest * rest + rest + ONE) * I32((I32(power) + I32(127)) << I32(23)).view(F32)


def widen(number: Any) -> float:
    """A number that is kept as fp32, int8, or the bits of bf16, in fp32."""


def narrow(numbers: np.ndarray, kept: np.ndarray) -> None:
    """Write `numbers` to `kept`, which is fp32, or the bits of bf16, to which they are rounded."""


@overload(widen)
def _widen(number):  # here and below it is a type
    if number == types.uint16:
        return lambda number: U32(U32(number) << U32(16)).view(F32)
    return lambda number: F32(number)


@overload(narrow)
def _narrow(numbers, kept):
    def copy(numbers, kept):
        kept[:] = numbers

    def round_to_even(numbers, kept):
        bits = numbers.view(U32)
        for i in range(len(bits)):
            kept[i] = (bits[i] + U32(0x7FFF) + ((bits[i] >> U32(16)) & U32(1))) >> U32(16)

    return round_to_even if kept.dtype == types.uint16 else copy
