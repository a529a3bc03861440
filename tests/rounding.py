"""The arithmetic of another processor, for tests: sums with other rounding errors.

    PIX2SEQ_TEST_ROUNDING=8 pytest

Matrix products, convolutions and sums get an error of at most this many units in the last place of their mean size. The
error depends on the inputs' shapes: the same call gives the same numbers, but another batch size does not. Between
instruction sets the largest differences are 7 to 30 such units. Tests must pass with any of them.
"""

from __future__ import annotations

import zlib
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

ROUNDED = {  # in inference mode the composite ones are not taken apart
    *("linear", "matmul", "conv2d", "scaled_dot_product_attention"),
    *("addmm", "mm", "bmm", "baddbmm", "convolution", "convolution_backward", "sum", "mean"),
    "_scaled_dot_product_flash_attention_for_cpu",
}

FLOAT32_UNIT = torch.finfo(torch.float32).eps


class Rounding(TorchDispatchMode):
    """Adds the error to the floating-point outputs of the operators in ROUNDED."""

    def __init__(self, units: float) -> None:
        super().__init__()
        self.units = units

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        found = func(*args, **(kwargs or {}))
        if func.overloadpacket.__name__ in ROUNDED:
            shapes = [tuple(part.shape) for part in args if isinstance(part, Tensor)]
            for number, part in enumerate(found if isinstance(found, tuple) else (found,)):
                if isinstance(part, Tensor) and part.is_floating_point() and part.device.type == "cpu" and part.numel():
                    self._disturb(part, f"{func} {shapes} {number}")
        return found

    def _disturb(self, tensor: Tensor, call: str) -> None:
        generator = torch.Generator().manual_seed(zlib.crc32(call.encode()))
        error = torch.rand(tensor.shape, generator=generator) * 2 - 1
        unit = torch.finfo(tensor.dtype).eps
        units = min(self.units, 1.0) if unit > FLOAT32_UNIT else self.units  # bfloat16 adds in float32, and rounds once
        size = tensor.detach().float().nan_to_num(0, 0, 0).abs().mean() * unit
        tensor.add_((units * size * error).to(tensor.dtype))
