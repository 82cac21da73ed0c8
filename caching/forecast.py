"""Forecasters: what is the cached feature now?

A forecaster returns scalars, one per stored feature; the feature that enters the network is their linear combination.
So every forecaster runs through one code path, and whatever is linear in the feature can be forecast instead of it.
To add one, write a frozen dataclass and register it; its fields are its settings in a configuration file:

    @register_forecaster("mean")
    @dataclass(frozen=True)
    class Mean:
        history: int = 2

        def weights(self, stored, now, branch):
            return [1 / len(stored)] * len(stored)
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

import configs
from caching.registry import Registry, asking
from configs import InputError
from models.feature import Feature, each


class Moment(NamedTuple):
    """When a network evaluation happens."""

    evaluation: int  # counted from the noisy end
    log_snr: float = math.nan  # ln(ᾱ / (1 - ᾱ)) there; nan where begin() was not told


class Forecaster(Protocol):
    """Weighs the features that a branch has stored."""

    @property
    def history(self) -> int:
        """How many features it wants kept."""
        ...

    def weights(self, stored: Sequence[Moment], now: Moment, branch: int) -> Sequence[float]:
        """One weight per stored feature of `branch`. stored: when they were made, newest first (at most `history`,
        fewer early in a trajectory); now: when they are forecast for. Branch NULL stores the network's output."""
        ...


# "auto" is what configurations call the one that suits a policy (experiments/grid.py).
FORECASTERS = Registry("forecaster", interfaces=[("history", "weights")], reserved=["auto"])
register_forecaster = FORECASTERS.register
make_forecaster = FORECASTERS.make


def history_of(forecaster: Forecaster) -> int:
    """How many features a forecaster, whoever wrote it, wants kept. Raises InputError where that is no such number."""
    with asking(forecaster, "history"):
        history = forecaster.history
    if not isinstance(history, int) or history < 1:
        raise InputError(f"{type(forecaster).__name__}.history is {history!r}; it must be a whole number from 1 on, "
                         "the features that a branch keeps")  # fmt: skip
    return history


def weights_of(forecaster: Forecaster, stored: Sequence[Moment], now: Moment, branch: int) -> list[float]:
    """A forecaster's weights, whoever wrote it. Raises InputError where they are not one finite number for each of
    `stored`."""
    with asking(forecaster, "weights"):
        weights = forecaster.weights(stored, now, branch)
    try:
        numbers = [float(weight) for weight in weights]
    except (TypeError, ValueError):
        numbers = []
    if len(numbers) != len(stored) or not all(map(math.isfinite, numbers)):
        raise InputError(f"{type(forecaster).__name__}.weights gives {weights!r} for {len(stored)} stored features at "
                         f"evaluation {now.evaluation}; it must give one finite number for each")  # fmt: skip
    return numbers


@register_forecaster("reuse")
@dataclass(frozen=True)
class Reuse:
    """The last feature as it is (Ma et al. 2023)."""

    @property
    def history(self) -> int:
        return 1

    def weights(self, stored: Sequence[Moment], now: Moment, branch: int) -> Sequence[float]:
        return [1.0]


@register_forecaster("zero")
@dataclass(frozen=True)
class Zero:
    """Zeros in the feature's place: what is lost without it (Ma et al. 2023, table 5)."""

    @property
    def history(self) -> int:
        return 1

    def weights(self, stored: Sequence[Moment], now: Moment, branch: int) -> Sequence[float]:
        return [0.0]


@dataclass(frozen=True)
class Extrapolation:
    """What polynomial forecasts have in common.

    order: its degree, 0 (reuse) to 3; lower while fewer than order + 1 features are stored. clock: what it is a
    polynomial in, `evaluation` (the step index) or `log_snr`.
    """

    order: int = 2
    clock: str = "evaluation"

    def __post_init__(self) -> None:
        if not 0 <= self.order <= 3:
            raise InputError(f"a forecaster's order must lie in 0..3, not {self.order}")
        configs.one_of(self.clock, CLOCKS, "the clock")

    @property
    def history(self) -> int:
        return self.order + 1


@register_forecaster("lagrange")
class Lagrange(Extrapolation):
    """The polynomial through the last order + 1 features, read now. Order 1 is linear extrapolation."""

    def weights(self, stored: Sequence[Moment], now: Moment, branch: int) -> Sequence[float]:
        # w_k = Π_{j≠k} (t - t_j) / (t_k - t_j)
        times, kept = distinct(stored, self.clock)
        t = time_of(now, self.clock)
        weights = [0.0] * len(stored)
        for k in kept:
            weights[k] = math.prod((t - times[j]) / (times[k] - times[j]) for j in kept if j != k)
        return weights


@register_forecaster("taylor")
class Taylor(Extrapolation):
    """Taylor's polynomial at the last feature, derivatives from repeated backward differences (Liu et al. 2025,
    TaylorSeer, eq. 7); equals Lagrange at order 1."""

    def weights(self, stored: Sequence[Moment], now: Moment, branch: int) -> Sequence[float]:
        # F(t) = Σ_i F⁽ⁱ⁾ (t - t_0)ⁱ / i!, with F⁽ⁱ⁾(t_k) = (F⁽ⁱ⁻¹⁾(t_k) - F⁽ⁱ⁻¹⁾(t_k+1)) / (t_k - t_k+1)
        times, kept = distinct(stored, self.clock)
        ahead = time_of(now, self.clock) - times[kept[0]]
        derivatives = [{k: 1.0} for k in kept]  # each as its weights over the stored features
        weights = [0.0] * len(stored)
        for i in range(len(kept)):
            for k, value in derivatives[0].items():
                weights[k] += value * ahead**i / math.factorial(i)
            derivatives = [
                _difference(newer, older, times[kept[m]] - times[kept[m + 1]])
                for m, (newer, older) in enumerate(itertools.pairwise(derivatives))
            ]
        return weights


@register_forecaster("fitted")
@dataclass(frozen=True)
class Fitted:
    """Weights fitted by calibration (experiments/planning/fitting), one list for every forecast that a plan makes.

    table: "evaluation:branch" -> the weights of the stored features, newest first. A plan file holds it.
    """

    table: dict[str, list[float]]

    @staticmethod
    def key(now: Moment, branch: int) -> str:
        """Where the table has the weights of a forecast."""
        return f"{now.evaluation}:{branch}"

    @property
    def history(self) -> int:
        return max((len(weights) for weights in self.table.values()), default=1)

    def weights(self, stored: Sequence[Moment], now: Moment, branch: int) -> Sequence[float]:
        """Raises InputError for a forecast that was not fitted: another plan's weights mean nothing."""
        weights = self.table.get(self.key(now, branch))
        if weights is None or len(weights) > len(stored):
            raise InputError(f"no weights were fitted for evaluation {now.evaluation} at branch {branch} with "
                             f"{len(stored)} stored features; use them with the plan they were fitted to")  # fmt: skip
        return [*weights, *[0.0] * (len(stored) - len(weights))]


CLOCKS = ("evaluation", "log_snr")


def time_of(moment: Moment, clock: str) -> float:
    """A moment on a clock. Raises InputError where log-SNR is asked for and was not given."""
    if clock == "evaluation":
        return float(moment.evaluation)
    if math.isnan(moment.log_snr):
        raise InputError("a forecast in log_snr needs begin(num_evals, log_snr), e.g. with sampler.eval_log_snr")
    return moment.log_snr


def distinct(stored: Sequence[Moment], clock: str) -> tuple[list[float], list[int]]:
    """Their times, and the indices of those that can be told apart (of equal times the newest): quadratic spacing and
    PLMS visit timesteps twice."""
    times = [time_of(moment, clock) for moment in stored]
    return times, [k for k, t in enumerate(times) if t not in times[:k]]


def combine(weights: Sequence[float], features: Sequence[Feature]) -> Feature:
    """Σ w_k F_k, part by part where features have several. A feature taken as it is comes back itself, without a copy
    or a rounding."""
    if weights[0] == 1 and not any(weights[1:]):
        return features[0]
    return each(lambda *tensors: _combine(weights, tensors), *features)


def _combine(weights: Sequence[float], tensors: Sequence[Tensor]) -> Tensor:
    if not tensors[0].numel():  # the border of a split that straddles no group; arithmetic would change its strides,
        return tensors[0]  # for which a compiled pass is compiled anew
    # In float32 at the least: half precision would round every term.
    total = tensors[0].to(torch.promote_types(tensors[0].dtype, torch.float32)) * weights[0]
    for weight, tensor in zip(weights[1:], tensors[1:], strict=True):
        if weight:
            total = total.add_(tensor, alpha=weight)
    return total.to(tensors[0].dtype)


def _difference(newer: Mapping[int, float], older: Mapping[int, float], apart: float) -> dict[int, float]:
    return {k: (newer.get(k, 0.0) - older.get(k, 0.0)) / apart for k in {*newer, *older}}
