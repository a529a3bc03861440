"""Steps whose loss or gradient is not finite change nothing: they are skipped, counted and reported."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from tqdm import tqdm

from pix2seq.errors import listed, plain
from pix2seq.runtime import distributed

MOST_IN_A_ROW = 10
NAMES_SHOWN = 4
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch norms: the forward pass changes them


class FiniteSteps:
    """Decides for each step, with all processes, whether its update may be made.

    `skipped` counts those that were not, `in_a_row` the ones since the last that was, `returns` how often the run went
    back to its last checkpoint because there were too many of them (see `resume.go_back`).
    """

    def __init__(self, model: nn.Module) -> None:
        self.statistics = [buffer for name, buffer in model.named_buffers() if name.endswith(STATISTICS)]
        self.kept: list[Tensor] = []
        self.skipped, self.in_a_row, self.returns = 0, 0, 0

    @property
    def rate_factor(self) -> float:
        """What the schedule's learning rate is multiplied by: half as much after each return."""
        return 0.5**self.returns

    @property
    def is_lost(self) -> bool:
        """Whether the weights are such that no step can be made from them any more."""
        return self.in_a_row >= MOST_IN_A_ROW

    def begin(self) -> None:
        """Remember what the forward pass of a step changes."""
        self.kept = [statistic.clone() for statistic in self.statistics]

    @torch.no_grad()
    def undo(self) -> None:
        """Put back what the forward pass has changed."""
        for statistic, before in zip(self.statistics, self.kept, strict=True):
            statistic.copy_(before)

    def accept(
        self, step: int, loss: Tensor, grad_norm: Tensor, losses: Mapping[str, Tensor], names: Sequence[str]
    ) -> bool:
        """Whether the loss and the gradient of update `step`, which are the same in all processes, are finite; if not,
        it is reported.

        `losses` are those of this process's batch, and `names` its images.
        """
        if bool(torch.isfinite(loss + grad_norm)):  # a GPU is waited for here, and nowhere else in a step
            self.in_a_row = 0
            return True
        mine = not all(bool(torch.isfinite(each)) for each in losses.values())
        self.undo()
        self.skipped, self.in_a_row = self.skipped + 1, self.in_a_row + 1
        values = ", ".join(f"{name} {value.item():.3g}" for name, value in losses.items())
        found = distributed.gather([(mine, values, names)])
        guilty = [part for part in found if part[0]] or found  # else the gradient alone is not finite
        if distributed.rank() == 0:
            self._report(step, float(grad_norm), guilty[0][1], [name for part in guilty for name in part[2]])
        return False

    def _report(self, step: int, grad_norm: float, values: str, names: list[str]) -> None:
        tqdm.write(
            f"skipped: the loss or its gradient is not finite at step {step} ({values}; gradient {grad_norm:.3g}) on "
            f"{listed([plain(name) for name in names], NAMES_SHOWN)}; {self.skipped} steps skipped so far"
        )
