"""Forecasters: what is the cached feature now?

A forecaster returns scalars, one per stored feature; the feature that enters the network is their linear combination.
So every forecaster runs through one code path, and whatever is linear in the feature can be forecast instead of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor


class Forecaster(Protocol):
    """Weighs the features that a branch has stored."""

    history: int  # how many features it wants kept

    def weights(self, stored: Sequence[int], now: int) -> Sequence[float]:
        """One weight per stored feature. stored: the evaluations they come from, newest first (at most `history`,
        fewer early in a trajectory); now: the evaluation they are forecast for."""
        ...


@dataclass(frozen=True)
class Reuse:
    """The last feature as it is (Ma et al. 2023)."""

    history: int = 1

    def weights(self, stored: Sequence[int], now: int) -> Sequence[float]:
        return [1.0]


def combine(weights: Sequence[float], features: Sequence[Tensor]) -> Tensor:
    """Σ w_k F_k. A feature taken as it is comes back itself, without a copy or a rounding."""
    if list(weights) == [1.0]:
        return features[0]
    total = features[0] * weights[0]
    for weight, feature in zip(weights[1:], features[1:], strict=True):
        total = total.add_(feature, alpha=weight)
    return total
