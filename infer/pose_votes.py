"""Several sampled poses of an instance as one: each point stands where most samples put it.

A greedy pose follows its first points, wrong ones too, and the probabilities of its tokens say how finely a coordinate
is known, not whether it is right. How closely samples agree, in the measure of COCO's object keypoint similarity (OKS),
is what that similarity with the true pose can be expected to be: a score that can be ranked by.
"""

from __future__ import annotations

import numpy as np

BANDWIDTH = 0.1  # of the square root of the box's area: OKS allows 0.04 (eyes) to 0.16 (hips) at one standard deviation


def merge_points(points: np.ndarray, counted: np.ndarray, area: float) -> tuple[np.ndarray, np.ndarray]:
    """`points` (N, K, 2) of N samples in pixels → points (K, 2) and how far the samples agree on each (K,), 0 to 1.

    Those `counted` (N, K) have a vote on their point, of which some is counted. Around the sample with the densest
    neighborhood the votes' mean is taken, weighted by their nearness to it. `area` is that of the instance's box.
    """
    distances = np.square(points[:, None] - points).sum(axis=-1)  # (N, N, K)
    near = np.exp(-distances / (2 * BANDWIDTH**2 * max(area, 1.0))) * counted
    density = np.where(counted, near.mean(axis=1), 0)
    best, column = density.argmax(axis=0), np.arange(points.shape[1])
    shares = near[best, :, column]  # (K, N)
    merged = np.einsum("kn,nkc->kc", shares, points) / np.maximum(shares.sum(axis=1), 1e-9)[:, None]
    return merged, density[best, column]
