"""The token loss, and all losses of a batch."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from pix2seq.config import TrainCFG
from pix2seq.dataset.batches import Batch
from pix2seq.evaluate.tokens import TokenCounts
from pix2seq.models.auxiliary_head import AuxiliaryHead
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.token_ids import is_coord
from pix2seq.train.auxiliary_loss import auxiliary_loss


def token_loss(
    logits: Tensor, targets: Tensor, weights: Tensor, coord_sigma: float = 0.0, label_smoothing: float = 0.0
) -> Tensor:
    """Weighted mean cross-entropy of `logits` (S, L, V) against `targets` (S, L) with `weights` (S, L).

    With `coord_sigma` > 0 a coordinate's target is not one bin but a normal distribution of that deviation, in bins:
    a near miss then costs less than a far one, which a plain class loss does not know. Of any other target the share
    `label_smoothing` is spread evenly over the vocabulary.
    """
    rows = weights.flatten().nonzero().squeeze(1)
    logits = logits.flatten(0, 1).index_select(0, rows).float()
    targets, weights = targets.flatten()[rows], weights.flatten()[rows]
    near, share = _target_shares(targets, coord_sigma)
    expected = (logits.gather(1, near.clamp(0, logits.shape[1] - 1)) * share).sum(1)
    if label_smoothing:
        expected += label_smoothing * (share.amax(1) == 1) * (logits.mean(-1) - expected)
    return ((logits.logsumexp(-1) - expected) * weights).sum() / (weights.sum() + 1e-9)


def _target_shares(targets: Tensor, sigma: float) -> tuple[Tensor, Tensor]:
    """Tokens (n, K) around each target (n,) and what part of it each is (n, K): 0 of those that do not exist.

    Coordinates are normal distributions around their bin, cut at the first and last one; other targets are all there.
    """
    reach = int(3 * sigma)
    offsets = torch.arange(-reach, reach + 1, device=targets.device)
    near = targets[:, None] + offsets
    if not reach:
        return near, torch.ones_like(near, dtype=torch.float32)
    is_bin = is_coord(near)
    inside = torch.where(is_bin[:, reach, None], is_bin, offsets == 0)
    heights = (-0.5 * (offsets / sigma) ** 2).expand_as(near)
    return near, heights.masked_fill(~inside, -torch.inf).softmax(1)


def batch_losses(
    model: Pix2Seq,
    batch: Batch,
    train: TrainCFG,
    auxiliary_head: AuxiliaryHead | None = None,
    counts: Mapping[str, TokenCounts] | None = None,
) -> dict[str, Tensor]:
    """Token loss of each task in the batch, and with a head its loss `auxiliary` on the memory's cells.

    With `counts` the target tokens are added to those of their task.
    """
    memory = model.encode(batch.images)
    groups = [(part.tokens, part.image_index) for part in batch.tasks.values()]
    losses = {}
    for (task, part), logits in zip(batch.tasks.items(), model.decode_groups(memory, groups), strict=True):
        losses[task] = token_loss(logits, part.targets, part.weights, train.coord_sigma, train.label_smoothing)
        if counts:
            counts[task].add(logits, part.targets, part.weights)
    return losses | ({"auxiliary": auxiliary_loss(auxiliary_head, memory, batch.objects)} if auxiliary_head else {})
