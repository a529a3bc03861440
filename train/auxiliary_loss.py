"""The loss of the auxiliary head: which object each cell of the memory should predict."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from pix2seq.dataset.batches import ObjectBatch
from pix2seq.models.auxiliary_head import AuxiliaryHead, fourier


def covering_object(boxes: Tensor, exists: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Which object each cell of a `side` × `side` grid belongs to: the smallest box that holds the cell's centre.

    `boxes` (B, M, 4) y1 x1 y2 x2 in canvas fractions, `exists` (B, M) → index (B, N), covered (B, N) bool.
    """
    centre = (torch.arange(side, device=boxes.device) + 0.5) / side
    y, x = (part.reshape(1, -1, 1) for part in torch.meshgrid(centre, centre, indexing="ij"))
    y1, x1, y2, x2 = (part[:, None, :] for part in boxes.unbind(-1))
    inside = (y >= y1) & (y < y2) & (x >= x1) & (x < x2) & exists[:, None, :]  # (B, N, M)
    area = ((y2 - y1) * (x2 - x1)).expand_as(inside).masked_fill(~inside, torch.inf)
    return area.argmin(-1), inside.any(-1)


def class_loss(logits: Tensor, classes: Tensor, unlabeled: Tensor) -> Tensor:
    """Cross entropy (B, N) of `logits` (B, N, C) and `classes` (B, N), 0 where no object is labeled.

    There may be one of a class of `unlabeled` (B, U), padded with 0: the probability of "no object" is the sum of its
    own and theirs (Cermelli and others, Modeling the Background, 2020, equation 3).
    """
    target = F.one_hot(classes, logits.shape[2]).bool()  # (B, N, C)
    absent = torch.zeros_like(target[:, 0]).scatter(1, unlabeled, True)  # (B, C)
    absent[:, 0] = True
    target = torch.where((classes == 0)[..., None], absent[:, None], target)
    log_probs = logits.log_softmax(2)
    return -log_probs.masked_fill(~target, -torch.inf).logsumexp(2)


def known_places(objects: ObjectBatch, side: int) -> tuple[Tensor, Tensor, Tensor]:
    """For each cell of a `side` × `side` grid the index (B, N) of its object, whether it has one (B, N), and which of
    its coordinates are known (B, N, C): the places that the head learns."""
    index, covered = covering_object(objects.boxes, objects.classes > 0, side)
    known = torch.cat([torch.ones_like(objects.boxes), objects.visible.repeat_interleave(2, 2)], dim=2)
    return index, covered, _of_cells(known, index) * covered[..., None]


def _of_cells(values: Tensor, index: Tensor) -> Tensor:
    """Values (B, M, C) of the objects `index` (B, N) → (B, N, C)"""
    return values.gather(1, index[..., None].expand(-1, -1, values.shape[2]))


def auxiliary_loss(
    head: AuxiliaryHead,
    memory: Tensor,
    objects: ObjectBatch,
    canvases: Tensor | None = None,
    places: Tensor | None = None,
) -> Tensor:
    """Loss of what `head` reads from `memory` (B, P + N, D): class and place of each cell's object.

    It is a mean over cells and over known places: those of these `canvases`, or of as many as are given.
    """
    logits, codes = head(memory)
    index, covered, weight = known_places(objects, math.isqrt(logits.shape[1]))
    classes = objects.classes.gather(1, index) * covered  # class 0: no object here
    each = class_loss(logits, classes, objects.unlabeled)
    class_term = each.mean() if canvases is None else each.sum() / (canvases * each.shape[1])
    target = _of_cells(torch.cat([objects.boxes, objects.points.flatten(2)], dim=2), index)
    place_loss = ((codes - fourier(target)) ** 2).sum(-1)
    total = weight.sum() if places is None else places
    return class_term + (place_loss * weight).sum() / total.clamp(min=1e-9)
