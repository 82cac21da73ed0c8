"""Adaptive policies: is the cached feature of this image still good enough?

A partial pass recomputes the skip at its branch anyway. How far it has moved since the image's last refresh is a free
probe of how far the feature that is not recomputed has moved. An adaptive policy decides from it, evaluation by
evaluation and image by image. To add one, write a frozen dataclass with a `branch` and a method `due`, and register it:

    @register("drift")
    @dataclass(frozen=True)
    class Drift:
        branch: int = 0
        threshold: float = 0.5

        def due(self, probe: Probe) -> bool:
            return sum(probe.steps) >= self.threshold
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

from caching.policies import register
from configs import InputError


class Probe(NamedTuple):
    """What is known of one image when its next evaluation is decided; |·| is the L2 norm over one image."""

    evaluation: int  # counted from the noisy end
    num_evals: int
    refreshed: int  # the evaluation of the last refresh
    # Of the skip s at the branch, at every call since the last refresh, this one last. (Where guidance is not computed
    # everywhere, its unconditional half is called at some evaluations only.)
    changes: tuple[float, ...]  # |s - s_refresh| / |s_refresh|, since the refresh
    steps: tuple[float, ...]  # |s - s_before| / |s_before|, since the evaluation before
    log_snr: float = math.nan  # ln(ᾱ / (1 - ᾱ)) at this evaluation; nan where begin() was not told

    @property
    def age(self) -> int:
        """Evaluations since the last refresh; 1 right after it."""
        return self.evaluation - self.refreshed

    @property
    def change(self) -> float:
        """How far the skip is now from where it was at the last refresh, relatively."""
        return self.changes[-1]


@runtime_checkable
class AdaptivePolicy(Protocol):
    """Decides during sampling, image by image, between a full pass and a partial pass at `branch`."""

    @property
    def branch(self) -> int: ...

    def due(self, probe: Probe) -> bool:
        """Must the image be refreshed at this evaluation? A pure function: the same probe, the same answer. The first
        evaluation of a trajectory is a full pass and is not asked about."""
        ...


@register("threshold")
@dataclass(frozen=True)
class Threshold:
    """A refresh whenever the skip has changed by `threshold` since the last one: the simplest rule, a baseline.

    threshold: 0 is no caching, .inf never refreshes.
    """

    threshold: float = 0.07
    branch: int = 1

    def __post_init__(self) -> None:
        if not self.threshold >= 0:
            raise InputError(f"threshold must be 0 (no caching) or above, not {self.threshold}")

    def due(self, probe: Probe) -> bool:
        return _reaches(probe.change, self.threshold)


@register("adaptive")
@dataclass(frozen=True)
class Adaptive:
    """A refresh when the estimated error of the forecasts since the last one adds up to `bound`.

    The estimate for one evaluation is scale·change^power. Towards a power of 0 each evaluation counts alike, as in
    Uniform; the larger the power, the more refreshes go where the skip moves fast, towards the end of a trajectory.
    The default suits Lagrange forecasts of the bundled digits (DDIM, 100 steps; bound 1.6 is about N = 5, 0.8 about
    N = 3). The relative error |F̂ - F| / |F| of a forecast feature F̂ follows powers of 0.7 to 0.9 there, but with those
    images end further off: errors early in the trajectory cost more than their size says.

    bound: of the sum; 0 is no caching. max_age: a refresh at the latest so many evaluations after the last; null is no
    limit. warm_up: so many first evaluations are full passes. window: the stretch of the trajectory, as fractions of
    its evaluations from the noisy end, in which images may be cached; outside of it every evaluation is a full pass.
    """

    bound: float = 1.6
    branch: int = 1
    scale: float = 1.0
    power: float = 0.3
    max_age: int | None = 10
    warm_up: int = 1
    window: list[float] = field(default_factory=lambda: [0.0, 1.0])

    def __post_init__(self) -> None:
        if not self.bound >= 0:
            raise InputError(f"bound must be 0 (no caching) or above, not {self.bound}")
        if not 0 < self.scale < math.inf:
            raise InputError(f"scale must be above 0, not {self.scale}")
        if not 0 < self.power <= 10:
            raise InputError(f"power must lie above 0 and not above 10, not {self.power}")
        if self.max_age is not None and self.max_age < 1:
            raise InputError(f"max_age must be at least 1 (1 is no caching), or null for no limit, not {self.max_age}")
        if self.warm_up < 1:
            raise InputError(f"warm_up must be at least 1: the first evaluation is full, not {self.warm_up}")
        if len(self.window) != 2 or not 0 <= self.window[0] < self.window[1] <= 1:
            raise InputError(f"window must be two fractions, 0 <= start < end <= 1, not {self.window}")

    def due(self, probe: Probe) -> bool:
        start, end = (fraction * probe.num_evals for fraction in self.window)
        if probe.evaluation < self.warm_up or not start <= probe.evaluation < end:
            return True
        if self.max_age is not None and probe.age >= self.max_age:
            return True
        return _reaches(sum(self.error(change) for change in probe.changes), self.bound)

    def error(self, change: float) -> float:
        """The estimated relative error of a feature forecast at this relative change of the skip."""
        return self.scale * change**self.power


def _reaches(value: float, limit: float) -> bool:
    return not value < limit  # so that a skip that is not finite asks for a full pass
