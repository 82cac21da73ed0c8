"""Adaptive policies at a given cost: the limit at which they keep a budget on the calibration images."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from tqdm import tqdm

from caching import Adaptive, AdaptivePolicy, Budget, Forecaster, Lagrange, Reuse, Threshold
from configs import InputError
from experiments.engine import EngineConfig
from experiments.planning.end_error import EndError, mean_psnr
from experiments.planning.naming import settings_of

LIMITS = (1e-3, 1e2)  # between which thresholds and bounds are sought
ROUNDS = 12  # halvings of their logarithms: to 0.3%


class Tuned(NamedTuple):
    """An adaptive policy with its forecaster, measured."""

    policy: AdaptivePolicy
    forecaster: Forecaster
    price: float  # averaged over the images: how often each refreshes is its own affair
    psnr: float

    def record(self) -> dict[str, Any]:
        """As a plan file holds it."""
        return {
            "policy": settings_of(self.policy),
            "forecaster": settings_of(self.forecaster),
            "price": self.price,
            "psnr": self.psnr,
        }


def check_uncompiled(config: EngineConfig) -> None:
    """Raises InputError where passes are to be compiled whole, in the middle of which adaptive policies decide."""
    if config.compile:
        raise InputError("adaptive policies, which are among what is compared, cannot be compiled; leave compile out")


def tuned(error: EndError, budget: Budget, branch: int, interval: int, count: int) -> Iterator[Tuned]:
    """The adaptive policies at `branch` that keep `budget` on the first `count` seeds of `error`.

    interval: of the uniform plan at this budget. Without a limit to the age an image whose probe stands still would
    never be refreshed; twice the interval leaves room to adapt.
    """

    def adaptive(bound: float) -> Adaptive:
        return Adaptive(bound, branch, max_age=2 * interval)

    def threshold(value: float) -> Threshold:
        return Threshold(value, branch)

    candidates = ((threshold, Reuse()), (threshold, Lagrange()), (adaptive, Lagrange()))
    for make, forecaster in tqdm(candidates, unit="policy", desc="adaptive"):
        found = tune(error, budget, make, forecaster, count)
        if found:
            yield found


def tune(
    error: EndError, budget: Budget, make: Callable[[float], AdaptivePolicy], forecaster: Forecaster, count: int
) -> Tuned | None:
    """The smallest limit whose price keeps the budget, by bisection -> None where no limit does.

    The price falls as the limit rises: fewer refreshes.
    """
    low, high = (math.log(limit) for limit in LIMITS)
    best = None
    for _ in range(ROUNDS):
        middle = (low + high) / 2
        policy = make(math.exp(middle))
        measured = error.adaptive(policy, forecaster, count)
        price = budget.price(tuple(measured.depths.elements()))
        if price <= budget.limit:
            high = middle
            best = Tuned(policy, forecaster, price, mean_psnr(measured.errors))
        else:
            low = middle
    return best
