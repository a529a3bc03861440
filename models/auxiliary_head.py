"""An auxiliary head: in training, every cell of the memory also predicts the object that covers it.

A decoder that learns from sequences alone takes very long to find out where the memory holds a position: it must learn
to attend to the right cell before it can learn to read it. Here each cell predicts the class, the box and the
keypoints of its object itself, so that they are there to be read as soon as the decoder attends anywhere to the object.
The head is no part of a weights file; what it reads from the memory shows how much the decoder could find there.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

OCTAVES = 6  # a coordinate is predicted as sine and cosine of this many frequencies, from half a cycle up


def fourier(fractions: Tensor) -> Tensor:
    """(…) canvas fractions → (…, 2 · OCTAVES): the coarse place first, then finer ones."""
    angles = fractions[..., None] * math.pi * 2.0 ** torch.arange(OCTAVES, device=fractions.device)
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def from_fourier(code: Tensor) -> Tensor:
    """(…, 2 · OCTAVES) → (…) canvas fractions: the inverse of `fourier`, from the coarse octaves to the fine ones.

    Octave k gives the angle a = atan2(sine, cosine) = π 2^k x up to whole turns. The place so far chooses the turn:
    x ← x + r · wrap(a − π 2^k x) / (π 2^k), from x = 1/2. The step is as large as the octave is sure: r is the length
    of (sine, cosine), at most 1, which a mean over several places makes shorter.
    """
    sine, cosine = code.unflatten(-1, (2, OCTAVES)).unbind(-2)
    angle, sure = torch.atan2(sine, cosine), torch.hypot(sine, cosine).clamp(max=1)
    place = torch.full_like(angle[..., 0], 0.5)
    for octave in range(OCTAVES):
        cycle = math.pi * 2.0**octave
        miss = torch.remainder(angle[..., octave] - cycle * place + math.pi, 2 * math.pi) - math.pi
        place = place + sure[..., octave] * miss / cycle
    return place.clamp(0, 1)


class AuxiliaryHead(nn.Module):
    """Reads from each cell of a memory of `width` channels one of `num_classes` classes, 0 for none, and coordinates:
    a box y1 x1 y2 x2 and `num_points` points y x."""

    def __init__(self, width: int, num_classes: int, num_points: int) -> None:
        super().__init__()
        self.num_coords = 4 + 2 * num_points
        self.classify = nn.Linear(width, num_classes)
        self.locate = nn.Linear(width, self.num_coords * 2 * OCTAVES)

    def forward(self, memory: Tensor) -> tuple[Tensor, Tensor]:
        """`memory` (B, P + N, D), whose last N tokens are a square grid → logits of classes (B, N, K), and codes of
        coordinates (B, N, C, 2 · OCTAVES), see `fourier`."""
        side = math.isqrt(memory.shape[1])
        cells = memory[:, -side * side :]
        codes = self.locate(cells).float().unflatten(-1, (self.num_coords, 2 * OCTAVES))
        return self.classify(cells).float(), codes
