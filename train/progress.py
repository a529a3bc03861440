"""What is seen of an epoch while it runs: the progress bar, rows of metrics, the time that steps and data take."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping

import torch
from torch import Tensor
from tqdm import tqdm

from pix2seq.dataset.batches import Batch
from pix2seq.evaluate.tokens import TokenCounts, token_numbers
from pix2seq.runtime import distributed
from pix2seq.train.announce import Forecast
from pix2seq.train.curves import Metrics


class Progress:
    """Follows the batches of one epoch; only the first process shows and writes anything (`metrics` is its own), a row
    after every `log_steps` steps."""

    def __init__(
        self, title: str, images_per_step: int, log_steps: int, metrics: Metrics | None, forecast: Forecast
    ) -> None:
        self.title, self.images_per_step, self.log_steps = title, images_per_step, log_steps
        self.metrics, self.forecast = metrics, forecast
        self._restart()

    def _restart(self) -> None:
        self.waited_s, self.since, self.steps = 0.0, time.monotonic(), 0
        self.recent: list[dict[str, Tensor]] = []  # losses of the steps since the last row

    def follow(self, loader: Iterable[Batch], steps: int, done: int = 0) -> Iterator[Batch]:
        """The batches, with a progress bar that begins at `done` of `steps`; the time between asking for one and
        getting it counts as waiting."""
        self.bar = tqdm(loader, self.title, unit="step", total=steps, initial=done, disable=distributed.rank() > 0)
        asked = time.monotonic()
        for batch in self.bar:
            self.waited_s += time.monotonic() - asked
            yield batch
            asked = time.monotonic()

    def recall(self, recent: list[dict[str, float]]) -> None:
        """Count losses of before a resume, from `recent_losses`, in the next row."""
        self.recent = [{name: torch.tensor(loss) for name, loss in losses.items()} for losses in recent]

    def recent_losses(self) -> list[dict[str, float]]:
        """The losses of the steps since the last row."""
        return [{name: loss.item() for name, loss in losses.items()} for losses in self.recent]

    def is_logged(self, step: int) -> bool:
        """Whether a row of metrics follows step number `step`, counted from 1."""
        return step % self.log_steps == 0

    def step_done(
        self,
        step: int,
        losses: Mapping[str, Tensor],
        rate: float,
        grad_norm: Tensor,
        counts: Mapping[str, TokenCounts],
        steps_left: float,
    ) -> None:
        """Step number `step` is done; `steps_left` more of its kind are to come."""
        self.recent.append({name: loss.detach() for name, loss in losses.items()})
        self.steps += 1
        if distributed.rank() > 0:
            return
        self.forecast.step_done(steps_left)
        if not self.is_logged(step):
            return
        spent = time.monotonic() - self.since
        speed, means = self.steps * self.images_per_step / spent, _means(self.recent)
        self.bar.set_postfix({name: f"{loss:.2f}" for name, loss in means.items()} | {"images/s": f"{speed:.0f}"})
        numbers = {f"loss/{name}": loss for name, loss in means.items()} | token_numbers(counts)
        numbers |= {"lr": rate} | ({"grad_norm": float(grad_norm)} if torch.isfinite(grad_norm) else {})
        self.metrics.add(step, numbers | {"images_per_s": speed, "data_wait": self.waited_s / spent})
        self._restart()


def _means(steps: list[dict[str, Tensor]]) -> dict[str, float]:
    """Mean of each loss over the steps that have it."""
    names = dict.fromkeys(name for losses in steps for name in losses)
    return {name: _mean([losses[name] for losses in steps if name in losses]) for name in names}


def _mean(values: list[Tensor]) -> float:
    """The mean of scalars; those of before a resume are on the CPU."""
    return torch.stack([value.to(values[-1].device) for value in values]).mean().item()
