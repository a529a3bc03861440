"""How often predictions of a score are right, and the calibration that makes scores say so."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10
CLOSEST = 1e-6  # a score's distance from 0 and 1, whose logits are infinite, in fitting
STEPS = 50
LOW, HIGH = 0.01, 100.0  # of a slope: scores keep their order


@dataclass(frozen=True)
class Reliability:
    """Predictions by score, in bins of equal width: `count`, `mean_score` and share `right` of each (None: empty).

    `error` is the expected calibration error, the mean over predictions of the distance between score and share.
    """

    count: list[int]
    mean_score: list[float | None]
    right: list[float | None]
    error: float

    @classmethod
    def of(cls, scores: np.ndarray, right: np.ndarray) -> Reliability:
        """Of predictions with `scores` (n,), which are `right` (n,) or not."""
        number = np.minimum((scores * BINS).astype(int), BINS - 1)
        count = np.bincount(number, minlength=BINS)
        sums = np.bincount(number, scores, BINS), np.bincount(number, right, BINS)
        error = np.abs(sums[0] - sums[1]).sum() / max(len(scores), 1)
        means = ([float(s / n) if n else None for s, n in zip(part, count, strict=True)] for part in sums)
        return cls(count.tolist(), *means, float(error))

    def text(self) -> str:
        """A table."""
        lines = [
            f"how often boxes of a score are right; expected calibration error {self.error:.3f}",
            "score      boxes  mean score  right",
        ]
        for number, (count, mean, right) in enumerate(zip(self.count, self.mean_score, self.right, strict=True)):
            if count:
                low, high = number / BINS, (number + 1) / BINS
                lines.append(f"{low:.1f} … {high:.1f}  {count:>5}  {mean:>10.3f}  {right:>5.3f}")
        return "\n".join(lines)


def fit_calibration(scores: np.ndarray, right: np.ndarray) -> tuple[float, float]:
    """Slope and offset for `infer.calibration.calibrate`: those of the highest likelihood, by Newton's method.

    Targets are (n₊ + 1) / (n₊ + 2) and 1 / (n₋ + 2) instead of 1 and 0, as in Platt's paper: few predictions, or ones
    that are all right, do not give certainty. The slope stays positive, so that no two scores change places.
    """
    clipped = np.clip(scores, CLOSEST, 1 - CLOSEST)
    inputs = np.column_stack([np.log(clipped / (1 - clipped)), np.ones(len(clipped))])
    positive = int(right.sum())
    target = np.where(right, (positive + 1) / (positive + 2), 1 / (len(right) - positive + 2))
    found = np.array([1.0, 0.0])
    for _ in range(STEPS):
        predicted = 1 / (1 + np.exp(-inputs @ found))
        gradient = inputs.T @ (predicted - target)
        hessian = inputs.T @ (inputs * (predicted * (1 - predicted))[:, None]) + 1e-6 * np.eye(2)
        step = np.linalg.solve(hessian, gradient)
        found = found - step / max(1.0, np.abs(step).max())  # far steps overshoot
        if np.abs(step).max() < 1e-9:
            break
    return float(np.clip(found[0], LOW, HIGH)), float(np.clip(found[1], -HIGH, HIGH))
