"""Policies: how deep does the U-Net run at this evaluation?

A policy is a frozen dataclass with a method `plan`; its fields are its settings in a configuration file. To add one,
write the class and register it:

    @register("alternate")
    @dataclass(frozen=True)
    class Alternate:
        branch: int = 0

        def plan(self, num_evals: int) -> Plan:
            return partial_between(range(0, num_evals, 2), self.branch, num_evals)
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from caching.plan import NULL, Depth, Plan, as_plan, partial_between
from caching.registry import Registry, asking
from configs import InputError


class Policy(Protocol):
    """Decides, before sampling starts, the depth of every network evaluation. (AdaptivePolicy decides during it.)"""

    def plan(self, num_evals: int) -> Plan:
        """One entry per network evaluation, noisiest first. Raises InputError where there is no such schedule."""
        ...


POLICIES = Registry("policy", interfaces=[("plan",), ("branch", "due")])  # the second is AdaptivePolicy's
register = POLICIES.register


def plan_of(policy: Policy, num_evals: int) -> Plan:
    """What a policy plans, whoever wrote it, as plain numbers. Raises InputError where that is no plan."""
    with asking(policy, "plan"):
        entries = policy.plan(num_evals)
        if not isinstance(entries, Iterable) or isinstance(entries, str):
            raise InputError(f"{type(policy).__name__}.plan gives {entries!r}; it must give one entry per network "
                             "evaluation, None (a full pass) or a branch number")  # fmt: skip
        return as_plan(entries)


@register("none")
@dataclass(frozen=True)
class NoCache:
    """Every evaluation is a full pass."""

    def plan(self, num_evals: int) -> Plan:
        return (None,) * num_evals


@register("uniform")
@dataclass(frozen=True)
class Uniform:
    """A full pass every `interval` evaluations (Ma et al. 2023, eq. 6).

    horizon: evaluations over which full passes are laid; later ones are partial. None is all of them. The released
      code lays them over the sampler's nominal steps: PLMS with 50 steps makes 51 evaluations, horizon 50. (In
      configurations `steps` is that number, whatever it is.)
    """

    interval: int = 5
    branch: int = 0
    horizon: int | None = None

    def __post_init__(self) -> None:
        _check_interval(self.interval)
        _check_horizon(self.horizon)

    def plan(self, num_evals: int) -> Plan:
        horizon = _within(self.horizon, num_evals)
        return partial_between(range(0, horizon, self.interval), self.branch, num_evals)


@register("nonuniform")
@dataclass(frozen=True)
class Nonuniform:
    """The quad-centre schedule as the released code computes it: full passes denser around `center`.

    interval: N; there are ceil(T / N) full passes. center: the evaluation, counted from the noisy end, around which
    they crowd; None is the schedule of the released LDM code, which has no center: they crowd at the noisy end.
    power: how strongly, above 1. horizon: as in Uniform.
    """

    interval: int = 5
    branch: int = 0
    center: int | None = 15
    power: float = 1.4
    horizon: int | None = None

    def __post_init__(self) -> None:
        _check_interval(self.interval)
        _check_horizon(self.horizon)
        if not 1 < self.power <= 10:
            raise InputError(f"power must lie above 1 and not above 10, not {self.power}; for evenly spaced full "
                             "passes take uniform")  # fmt: skip

    def plan(self, num_evals: int) -> Plan:
        steps = _within(self.horizon, num_evals)
        if self.center is None:
            full = quad(steps, self.interval, self.power)
        else:
            full = quad_centre(steps, self.interval, self.center, self.power)
        return partial_between(full, self.branch, num_evals)


@register("nested")
@dataclass(frozen=True)
class Nested:
    """Every cached branch is refreshed at a rate of its own: deep ones seldom, shallow ones often.

    branches: the cached branches, outermost first; -1 caches the network's output, which makes null steps between its
      refreshes.
    refresh: for each branch its interval N (every N-th evaluation from the first), or the list of its evaluations.

    A pass entered at branch b makes all cached branches outside b anew. So at each evaluation the network is entered at
    the first branch inside all that are due, and runs in full where the innermost one is; where none is due it is
    entered at the outermost. One branch is Uniform, or with a list any schedule at all.
    """

    branches: list[int]
    refresh: list[Any]

    def __post_init__(self) -> None:
        if not self.branches or sorted(set(self.branches)) != list(self.branches) or self.branches[0] < NULL:
            raise InputError(f"branches must ascend from the outermost, -1 at the least, not {list(self.branches)}")
        if len(self.refresh) != len(self.branches):
            raise InputError(f"refresh needs one interval or list for each of the {len(self.branches)} branches, not "
                             f"{len(self.refresh)}")  # fmt: skip
        for item in self.refresh:
            if isinstance(item, int):
                _check_interval(item)
            elif not isinstance(item, list) or not all(isinstance(i, int) and i >= 0 for i in item):
                raise InputError(f"a branch is refreshed at an interval or a list of evaluations, not at {item!r}")

    def plan(self, num_evals: int) -> Plan:
        due = [set(range(0, num_evals, item)) if isinstance(item, int) else {0, *item} for item in self.refresh]
        outside = max(i for item in due for i in item)
        if outside >= num_evals:
            raise InputError(f"refresh {outside} is not an evaluation; the sampler makes 0..{num_evals - 1}")
        entries: list[Depth] = [*self.branches, None]
        return tuple(entries[max((k + 1 for k, at in enumerate(due) if i in at), default=0)] for i in range(num_evals))


@register("explicit")
@dataclass(frozen=True)
class Explicit:
    """A plan written out: either the evaluations that run in full, or every entry.

    full: indices of full passes; the others are partial at `branch`.
    entries: one per evaluation, null (full), a branch, or -1 (a null step).
    """

    full: list[int] | None = None
    branch: int | None = None
    entries: list[Any] | None = None

    def __post_init__(self) -> None:
        if (self.entries is None) == (self.full is None) or (self.full is None) != (self.branch is None):
            raise InputError("an explicit policy has either `entries`, or `full` together with `branch`")
        as_plan(self.entries or [])

    def plan(self, num_evals: int) -> Plan:
        if self.entries is not None:
            return as_plan(self.entries)
        return partial_between(self.full or [], self.branch or 0, num_evals)


def quad(steps: int, interval: int, power: float) -> list[int]:
    """The full passes of the released LDM code's schedule: k + 1 points from 0 to T^(1/p), k = ceil(T / N), each raised
    to the power p and cut towards zero; the last is dropped. Where points fall together there are fewer than k."""
    points = np.linspace(0, steps ** (1 / power), math.ceil(steps / interval) + 1) ** power
    return [int(point) for point in np.unique(points.astype(np.int64))[:-1]]


def quad_centre(steps: int, interval: int, center: int, power: float) -> list[int]:
    """The full passes of the released non-uniform schedule over T = steps (Ma et al. 2023, eq. 7).

    Eq. 7 asks for (-c)^(1/p), which the released code evaluates as a complex number, the principal root
    c^(1/p)·e^(iπ/p). Its k + 1 points lie on the straight line in the complex plane from there to (T - c)^(1/p); each
    is raised to the power p, and its real part |z|^p·cos(p·arg z), cut towards zero, is the distance from c.
    The first and last are dropped and 0 put in front. Where points fall together p is lowered by 0.02 and all is
    tried again. Raises InputError where that leads to no schedule of k = ceil(T / N) full passes.
    """
    if not 0 <= center < steps:
        raise InputError(f"center must lie in 0..{steps - 1}, not {center}, where a nonuniform schedule has {steps} "
                         f"steps; give policy.center, e.g. {steps // 3}")  # fmt: skip
    wanted = math.ceil(steps / interval)
    p = power
    while p > 1:
        # Python's power of a negative number is the principal complex root; the same operations in the same order as
        # the released code, since the cut to an integer shows the last bit.
        z = np.linspace((-center) ** (1 / p), (steps - center) ** (1 / p), wanted + 1)
        distances = np.real(z**p)
        inner = np.unique(distances.astype(np.int64))[1:-1]
        full = [0, *(int(distance) + center for distance in inner)]
        if len(full) == wanted:
            return full
        p -= 0.02
    raise InputError(
        f"there is no non-uniform schedule of {wanted} full passes over {steps} steps with center {center} and power "
        f"{power}; take another policy.center, a larger policy.interval, or policy.name=uniform"
    )


def _check_horizon(horizon: int | None) -> None:
    if horizon is not None and horizon < 1:
        raise InputError(f"horizon must be at least 1, or null for every evaluation, not {horizon}")


def _within(horizon: int | None, num_evals: int) -> int:
    """The evaluations over which full passes are laid. Raises InputError where the sampler makes fewer."""
    if horizon is not None and horizon > num_evals:
        raise InputError(f"horizon {horizon} lies beyond the {num_evals} network evaluations of this sampler; give its "
                         "number of steps")  # fmt: skip
    return horizon or num_evals


def _check_interval(interval: int) -> None:
    if interval < 1:
        raise InputError(f"interval must be at least 1 (1 is no caching), not {interval}")
