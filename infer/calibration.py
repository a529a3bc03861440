"""Scores that say how often a detection is right: a monotone map, fitted on labeled images."""

from __future__ import annotations

import numpy as np


def calibrate(scores: np.ndarray, slope: float, offset: float) -> np.ndarray:
    """`scores` (n,) from 0 to 1 as sigmoid(slope · logit(score) + offset); slope 1 and offset 0 change nothing.

    J. Platt, Probabilistic outputs for support vector machines and comparisons to regularized likelihood methods, 1999.
    """
    if (slope, offset) == (1, 0):
        return scores
    scores = np.asarray(scores, dtype=np.float64)
    with np.errstate(divide="ignore", over="ignore"):  # 0 stays 0, and 1 stays 1
        odds = np.log(scores) - np.log1p(-scores)
        return 1 / (1 + np.exp(-(slope * odds + offset)))
