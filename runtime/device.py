"""The device that a script computes on."""

from __future__ import annotations

import torch

from pix2seq.errors import UserError


def pick_device(name: str) -> torch.device:
    """The device of `--device`."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.empty(0, device=name).device
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"--device {name} cannot be used here ({str(error).splitlines()[0]}); try cpu") from None


def computes_bf16(device: torch.device) -> bool:
    """Whether mixed precision gains time: a processor without such arithmetic takes five times as long as with fp32."""
    if device.type != "cpu":
        return True
    return torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
