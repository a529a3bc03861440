"""The official ResNet-50: timm's bottleneck blocks and parameter names, with three things that timm's ResNet has not.

Its first max-pooling pads as TensorFlow does (even sides: right and bottom only), its batch norm computes as
TensorFlow's synchronised one does, and its width may be a fraction.
"""

from __future__ import annotations

import torch
from timm.layers import create_pool2d
from timm.models.resnet import Bottleneck, downsample_conv
from torch import Tensor, nn

from pix2seq.runtime import distributed

BLOCKS = (3, 4, 6, 3)
PLANES = (64, 128, 256, 512)


class BatchNorm(nn.BatchNorm2d):
    """Batch norm over all processes, with the official arithmetic of statistics: variance E[x²] − E[x]², biased.

    What a training step is most sensitive to is the rounding in that difference: hence the formula, and its sums.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        if not self.training:
            return super().forward(x)
        wide = x.float()
        pixels = wide.new_full(self.weight.shape, x.numel() // x.shape[1])  # each process has its own number
        sums = torch.stack([channel_sums(wide), channel_sums(wide.square()), pixels])
        total, square_total, count = distributed.summed(sums)
        mean, square_mean = total / count, square_total / count
        variance = (square_mean - mean.square()).clamp(min=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance, self.momentum)
        scale = (variance + self.eps).rsqrt() * self.weight
        return (wide * scale[:, None, None] + (self.bias - mean * scale)[:, None, None]).to(x.dtype)


def channel_sums(x: Tensor) -> Tensor:
    """Sums (C,) of x (B, C, H, W); on a CPU in TensorFlow's order: every fourth pixel apart, then these."""
    pixels = x.permute(0, 2, 3, 1).flatten(0, 2)
    if x.device.type != "cpu":
        return pixels.sum(0)
    even = len(pixels) // 4 * 4
    fourths = pixels.new_zeros(4, x.shape[1]).index_add(0, torch.arange(even) % 4, pixels[:even])
    parts = torch.cat([fourths, pixels[even:]])
    return parts.new_zeros(1, x.shape[1]).index_add(0, torch.zeros(len(parts), dtype=torch.long), parts)[0]


class ResNet(nn.Module):
    """Images (B, 3, H, W) to the feature map after `stages` of the four stages, `width` times as wide as usual."""

    def __init__(self, stages: int = 4, width: float = 1.0) -> None:
        super().__init__()
        planes = [int(count * width) for count in PLANES[:stages]]
        stem = int(64 * width)
        self.conv1 = nn.Conv2d(3, stem, 7, stride=2, padding=3, bias=False)
        self.bn1 = BatchNorm(stem)
        self.maxpool = create_pool2d("max", 3, 2, padding="same")
        self.stages = [f"layer{number + 1}" for number in range(stages)]
        in_width = stem
        for number, (name, count) in enumerate(zip(self.stages, planes, strict=True)):
            self.add_module(name, _stage(in_width, count, BLOCKS[number], stride=1 if number == 0 else 2))
            in_width = count * Bottleneck.expansion
        self.width, self.reduction = in_width, 2 ** (stages + 1)
        self.apply(_init_weights)

    def forward(self, images: Tensor) -> Tensor:
        """(B, width, ⌈H / reduction⌉, ⌈W / reduction⌉)"""
        x = self.maxpool(self.bn1(self.conv1(images)).relu())
        for name in self.stages:
            x = getattr(self, name)(x)
        return x


def _stage(in_width: int, planes: int, blocks: int, stride: int) -> nn.Sequential:
    out_width = planes * Bottleneck.expansion
    shortcut = downsample_conv(in_width, out_width, 1, stride, norm_layer=BatchNorm)
    first = Bottleneck(in_width, planes, stride, shortcut, norm_layer=BatchNorm)
    rest = [Bottleneck(out_width, planes, norm_layer=BatchNorm) for _ in range(blocks - 1)]
    return nn.Sequential(first, *rest)


def _init_weights(module: nn.Module) -> None:
    """Keras' VarianceScaling for convolutions (fan-in, truncated normal); a branch's last norm starts at 0."""
    if isinstance(module, nn.Conv2d):
        deviation = (module.weight[0].numel() ** -0.5) / 0.87962566  # the deviation that truncation at 2 takes away
        nn.init.trunc_normal_(module.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
    if isinstance(module, Bottleneck):
        nn.init.zeros_(module.bn3.weight)
