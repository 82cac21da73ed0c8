"""Published schedules made from how features drift: what calibrated plans are compared with.

All take distances between the features of one branch on the uncached trajectory, and return the full passes.
"""

from __future__ import annotations

import numpy as np


def drift_threshold(distance: np.ndarray, count: int) -> list[int]:
    """A full pass wherever the drift since the last one passes a threshold, which is set to make `count` of them.

    distance: (T, T), of the features at two evaluations, relative to the earlier one.
    """
    low, high = 0.0, float(distance.max())
    best = [0]
    for _ in range(60):  # bisection; fewer passes at a higher threshold
        threshold = (low + high) / 2
        full = _passing(distance, threshold)
        if len(full) <= count:
            high, best = threshold, full
        else:
            low = threshold
    return best


def least_drift(distance: np.ndarray, count: int) -> list[int]:
    """The `count` full passes with the least sum of distances between each feature and the one reused for it.

    The dynamic programme of CacheQuant (Liu et al. 2025, section 3.2), with distance (T, T) the L1 norm between
    features: cost[k][i] = min_j cost[k-1][j] + Σ_{j≤m<i} |F_m - F_j|.
    """
    total = len(distance)
    group = np.full((total, total + 1), np.inf)  # group[j, i]: evaluations j .. i-1 reuse the feature of j
    for j in range(total):
        group[j, j + 1 :] = np.cumsum(distance[j, j:])
    cost = np.full((count + 1, total + 1), np.inf)
    cost[0, 0] = 0
    before = np.zeros((count + 1, total + 1), dtype=int)
    for k in range(1, count + 1):
        candidates = cost[k - 1, :total, None] + group
        before[k] = candidates.argmin(0)
        cost[k] = candidates.min(0)
    full, end = [], total
    for k in range(count, 0, -1):
        end = int(before[k, end])
        full.append(end)
    return full[::-1]


def _passing(distance: np.ndarray, threshold: float) -> list[int]:
    full = [0]
    for i in range(1, len(distance)):
        if distance[full[-1], i] > threshold:
            full.append(i)
    return full
