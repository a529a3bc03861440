"""Linear layers laid out for decoding, where a few rows are multiplied with many weights."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

INT8_MAX = 127
INT8_INPUTS = 32  # torch's kernel reads so many inputs at a time, and beyond the end where fewer are left


class Dense(nn.Module):
    """`x` (R, in) → (R, out) by a fixed `weight` (out, in) and `bias` (out,).

    On a processor the product of a few rows and a matrix takes the time of reading the matrix, if it is read in order:
    where there are more outputs than inputs, half the time with the weights of an input side by side.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.multiplications = weight.numel()
        self.by_input = weight.device.type == "cpu" and weight.shape[0] > weight.shape[1]
        self.register_buffer("weight", weight.t().contiguous() if self.by_input else weight)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if not self.by_input:
            return F.linear(x, self.weight, self.bias)
        return x @ self.weight if self.bias is None else torch.addmm(self.bias, x, self.weight)

    def single(self, x: np.ndarray) -> np.ndarray:
        """One row (in,) → (out,), on a processor in fp32."""
        weight, bias = self._parts
        product = np.dot(x, weight) if self.by_input else np.vecdot(weight, x)
        if bias is not None:
            product += bias
        return product

    @cached_property
    def _parts(self) -> tuple[np.ndarray, np.ndarray | None]:
        return self.weight.numpy(), None if self.bias is None else self.bias.numpy()

    def rows(self) -> tuple[Tensor, Tensor]:
        """Weights (out, in), and a scale (out,) of each output."""
        weight = self.weight.t() if self.by_input else self.weight
        return weight, torch.ones(len(weight))


class Int8Dense(nn.Module):
    """`Dense` with weights in 8 bits and a scale for each output; `x` and the result keep their type.

    Weights are rounded to 127 steps of the largest one of their output. On a processor torch's kernel multiplies them
    with inputs in bf16, and adds up in fp32.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.multiplications = weight.numel()
        wide = weight.float()
        scale = wide.abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / INT8_MAX
        narrow = (wide / scale[:, None]).round().to(torch.int8)
        self.missing = -weight.shape[1] % INT8_INPUTS if weight.device.type == "cpu" else 0
        self.register_buffer("weight", F.pad(narrow, (0, self.missing)))
        self.register_buffer("scale", scale.to(torch.bfloat16 if weight.device.type == "cpu" else weight.dtype))
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu":
            inputs = F.pad(x.bfloat16(), (0, self.missing)) if self.missing else x.bfloat16()
            product = torch._weight_int8pack_mm(inputs, self.weight, self.scale)
        else:
            product = F.linear(x, self.weight.to(x.dtype)) * self.scale
        return (product if self.bias is None else product + self.bias).to(x.dtype)

    def single(self, x: np.ndarray) -> np.ndarray:
        """One row (in,) → (out,), on a processor in fp32."""
        if self.missing:
            return self(torch.from_numpy(x[None]))[0].numpy()
        weight, scale, bias = self._parts
        product = torch._weight_int8pack_mm(torch.from_numpy(x[None]).bfloat16(), weight, scale).float().numpy()[0]
        if bias is not None:
            product += bias
        return product

    @cached_property
    def _parts(self) -> tuple[Tensor, Tensor, np.ndarray | None]:
        return self.weight, self.scale, None if self.bias is None else self.bias.numpy()

    def rows(self) -> tuple[Tensor, Tensor]:
        """Weights (out, in), and a scale (out,) of each output."""
        return self.weight[:, : self.weight.shape[1] - self.missing], self.scale


class HalfDense(nn.Module):
    """`Dense` with weights in fp16, by torch's FBGEMM on a processor; `x` and the result are fp32.

    On one thread the kernel is called by a function that torch has announced to remove, as the one to stay takes longer
    for a call than for the product of a row. That one uses all threads.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.multiplications = weight.numel()
        self.bias = weight.new_zeros(len(weight)) if bias is None else bias
        self.packed = torch.ops.quantized.linear_prepack_fp16(weight, self.bias)
        with warnings.catch_warnings():  # of the removal: each function warns once in a process
            warnings.simplefilter("ignore")
            self.weight = torch.fbgemm_pack_gemm_matrix_fp16(weight)
            self._on_one_thread(weight[:1])

    def _on_one_thread(self, x: Tensor) -> Tensor:
        return torch.fbgemm_linear_fp16_weight_fp32_activation(x, self.weight, self.bias)

    def forward(self, x: Tensor) -> Tensor:
        if torch.get_num_threads() == 1:
            return self._on_one_thread(x)
        return torch.ops.quantized.linear_dynamic_fp16(x, self.packed)

    def single(self, x: np.ndarray) -> np.ndarray:
        """One row (in,) → (out,)."""
        return self._on_one_thread(torch.from_numpy(x[None])).numpy()[0]


def as_array(x: Tensor) -> np.ndarray:
    """`x`, on a processor, in the same memory; of bf16, which numpy does not know, the bits as uint16."""
    return x.view(torch.uint16).numpy() if x.dtype == torch.bfloat16 else x.numpy()


def dense(weight: Tensor, bias: Tensor | None, precision: str) -> Dense | Int8Dense | HalfDense:
    """The layer with weights in a precision: fp32, bf16, fp16 or int8."""
    if precision == "fp16":
        return HalfDense(weight, bias)
    if precision == "int8":
        return Int8Dense(weight, bias)
    dtype = torch.bfloat16 if precision == "bf16" else weight.dtype
    return Dense(weight.to(dtype), None if bias is None else bias.to(dtype))


def joined(
    linears: Sequence[nn.Linear], precision: str, scales: Sequence[float] | None = None
) -> Dense | Int8Dense | HalfDense:
    """One layer for several that read the same input; their outputs, times `scales`, stand side by side."""
    scales = scales or [1.0] * len(linears)
    weight = torch.cat([linear.weight.detach() * scale for linear, scale in zip(linears, scales, strict=True)])
    bias = None
    if linears[0].bias is not None:
        bias = torch.cat([linear.bias.detach() * scale for linear, scale in zip(linears, scales, strict=True)])
    return dense(weight, bias, precision)
