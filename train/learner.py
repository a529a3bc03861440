"""What learns: the model and its auxiliary head with their losses, as one module that torch's engines wrap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from pix2seq.config import TrainCFG
from pix2seq.dataset.batches import Batch
from pix2seq.models.auxiliary_head import AuxiliaryHead
from pix2seq.models.pix2seq import Pix2Seq
from pix2seq.runtime import distributed
from pix2seq.train.auxiliary_loss import known_places
from pix2seq.train.loss import batch_losses


class Learner(nn.Module):
    """`parts` are the model and, if there is one, the head, under the names that checkpoints have."""

    def __init__(
        self, model: Pix2Seq, head: AuxiliaryHead | None, train: TrainCFG, loss_weights: Mapping[str, float]
    ) -> None:
        super().__init__()
        self.parts = nn.ModuleList(part for part in (model, head) if part)
        self.train_cfg, self.loss_weights = train, loss_weights

    @property
    def head(self) -> AuxiliaryHead | None:
        """The auxiliary head, if there is one."""
        return self.parts[1] if len(self.parts) > 1 else None

    def forward(self, batch: Batch, totals: Mapping[str, Tensor]) -> tuple[Tensor, dict[str, Tensor], Tensor]:
        """The weighted sum of the losses of `batch`, each of them, and the logits (n, V) after the scored tokens.

        Every parameter gets a gradient, 0 where the batch has nothing to learn: other processes wait for it.
        """
        losses, logits = batch_losses(self.parts[0], batch, self.train_cfg, self.head, totals)
        total = sum(self.loss_weights[name] * loss for name, loss in losses.items())
        if not batch.tasks:
            total = total + logits.sum()  # of none
        return total, {name: loss.detach() for name, loss in losses.items()}, logits.detach()

    def totals(self, parts: Sequence[Batch], tasks: Sequence[str]) -> dict[str, Tensor]:
        """What the losses of a step are divided by, in each process: what the batches of all processes have together,
        per process, as gradients are averaged over them. Tasks that no process has are left out; empty if there is
        nothing to learn.

        `parts` are the batches of this process, on its device; every process must call this.
        """
        own = [sum(float(part.tasks[task].weights.sum()) for part in parts if task in part.tasks) for task in tasks]
        sums = distributed.total([*own, float(sum(len(part.images) for part in parts))])
        known = {name: number for name, number in zip([*tasks, "canvases"], sums, strict=True) if number}
        if not (self.head or known.keys() & set(tasks)):
            return {}
        share = distributed.world_size()
        numbers = torch.tensor(list(known.values())).to(parts[0].images.device, non_blocking=True) / share
        totals = dict(zip(known, numbers.unbind(), strict=True))
        if self.head:
            side = self.parts[0].encoder.backbone.side(parts[0].images.shape[-1])
            places = torch.stack([known_places(part.objects, side)[2].sum() for part in parts]).sum()
            totals["places"] = distributed.summed(places) / share
        return totals
