"""Batch norms whose statistics are those of all processes together."""

from __future__ import annotations

import torch
from timm.layers import convert_sync_batchnorm
from torch import Tensor, nn

from pix2seq.models.resnet import BatchNorm
from pix2seq.runtime import distributed


class JointBatchNorm(nn.BatchNorm2d):
    """What `torch.nn.SyncBatchNorm` computes, which runs on GPUs alone; `after` is what ends timm's own norms."""

    def __init__(self, norm: nn.BatchNorm2d) -> None:
        super().__init__(norm.num_features, norm.eps, norm.momentum)
        self.load_state_dict(norm.state_dict())
        self.after = nn.Sequential(*(getattr(norm, name) for name in ("drop", "act") if hasattr(norm, name)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self.training:
            return self.after(super().forward(x))
        wide = x.float()
        mine = wide.new_full(self.weight.shape, x.numel() // x.shape[1])  # each process has its own number
        total, count = distributed.summed(torch.stack([wide.sum((0, 2, 3)), mine]))
        mean = total / count
        centered = wide - mean[:, None, None]
        variance = distributed.summed(centered.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.num_batches_tracked += 1
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * (count / (count - 1)), self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return self.after((centered * scale[:, None, None] + self.bias[:, None, None]).to(x.dtype))


def join_statistics(net: nn.Module, device: torch.device) -> None:
    """Let the batch norms of `net` that are trained take their statistics over all processes; the official ones do."""
    for name, child in net.named_children():
        if not isinstance(child, nn.BatchNorm2d):
            join_statistics(child, device)
        elif child.weight.requires_grad and not isinstance(child, BatchNorm):
            joined = convert_sync_batchnorm(child) if device.type == "cuda" else JointBatchNorm(child)
            setattr(net, name, joined.train(child.training))
