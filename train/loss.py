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
    logits: Tensor,
    targets: Tensor,
    weights: Tensor,
    coord_sigma: float = 0.0,
    label_smoothing: float = 0.0,
    total: Tensor | None = None,
) -> Tensor:
    """Cross-entropy of `logits` (…, V) against `targets` (…), the sum with `weights` (…) divided by `total`, which is
    the sum of the weights unless it is given.

    With `coord_sigma` > 0 a coordinate's target is not one bin but a normal distribution of that deviation, in bins:
    a near miss then costs less than a far one, which a plain class loss does not know. Of any other target the share
    `label_smoothing` is spread evenly over the vocabulary.
    """
    logits, targets, weights = logits.flatten(0, -2).float(), targets.flatten(), weights.flatten()
    near, share = _target_shares(targets, coord_sigma)
    expected = (logits.gather(1, near.clamp(0, logits.shape[1] - 1)) * share).sum(1)
    if label_smoothing:
        expected = expected + label_smoothing * (share.amax(1) == 1) * (logits.mean(-1) - expected)
    total = weights.sum() if total is None else total
    return ((logits.logsumexp(-1) - expected) * weights).sum() / total.clamp(min=1e-9)  # 0 where nothing has a weight


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
    totals: Mapping[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Token loss of each task in the batch, and with a head its loss `auxiliary` on the memory's cells; the logits
    (n, V) after the scored tokens.

    Each loss is a mean over what this batch has of its kind, or the sum divided by its own of `totals`.
    """
    memory = model.encode(batch.images)
    packing, totals = batch.packing, totals or {}
    logits = model.score(memory, packing)
    parts = zip(batch.tasks, packing.by_part(logits), packing.targets, packing.weights, strict=True)
    losses = {
        task: token_loss(*part, train.coord_sigma, train.label_smoothing, totals.get(task)) for task, *part in parts
    }
    if auxiliary_head:
        shares = totals.get("canvases"), totals.get("places")
        losses["auxiliary"] = auxiliary_loss(auxiliary_head, memory, batch.objects, *shares)
    return losses, logits


def count_tokens(counts: Mapping[str, TokenCounts] | None, batch: Batch, logits: Tensor) -> None:
    """Add the target tokens of a batch, after which the model gave `logits` (n, V), to the counts of their task."""
    if counts:
        for (task, part), of_task in zip(batch.tasks.items(), batch.packing.by_part(logits), strict=True):
            counts[task].add(of_task, part.targets, part.weights)
