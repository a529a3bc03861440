"""Muon on processors that do not compute in bfloat16."""

from __future__ import annotations

import torch
from torch import Tensor

from pix2seq.runtime.device import computes_bf16


class Float32Muon(torch.optim.Muon):
    """`torch.optim.Muon` with Newton-Schulz iterations in float32 instead of bfloat16.

    A processor without bfloat16 arithmetic emulates it: on one with AVX2 alone a training step of the demo model took
    19 s, and 1.1 s so. State and settings are those of `torch.optim.Muon`; the rate is adjusted by `match_rms_adamw`.
    """

    @torch.no_grad()
    def step(self) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["momentum_buffer"] = torch.zeros_like(parameter)
                momentum = state["momentum_buffer"]
                momentum.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(momentum, group["momentum"]) if group["nesterov"] else momentum
                update = orthogonalize(update, group["ns_coefficients"], group["ns_steps"], group["eps"])
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"] * 0.2 * max(parameter.shape) ** 0.5)


def orthogonalize(update: Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> Tensor:
    """The update (n, m) made nearly orthogonal by Newton-Schulz iterations (Jordan et al., 2024), in its precision."""
    a, b, c = coefficients
    tall = update.shape[0] > update.shape[1]
    x = update.T if tall else update
    x = x / x.norm().clamp(min=eps)
    for _ in range(steps):
        gram = x @ x.T
        x = torch.addmm(x, torch.addmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.T if tall else x


def make_muon(groups: list[dict], weight_decay: float, device: torch.device) -> torch.optim.Muon:
    """Muon for `device`; its updates are as large as AdamW's, so that one schedule serves both."""
    kind = torch.optim.Muon if computes_bf16(device) else Float32Muon
    return kind(groups, lr=0.0, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw")
