"""Searching for plans: the shapes that a plan of given cost can have, and the small changes that lead to better ones.

Nothing here runs a network. What a plan is worth is asked of an `error`, which only the true end error of a cached
trajectory tells: errors added up along the way mislead, since later passes correct early errors and meet drifted
inputs.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from caching.cost import PassCosts
from caching.plan import NULL, Depth, Plan
from configs import InputError


@dataclass(frozen=True)
class Budget:
    """What a plan may cost: a fraction of full passes everywhere, in MACs with attention products."""

    costs: PassCosts
    limit: float

    def __post_init__(self) -> None:
        if not 0 < self.limit <= 1:
            raise InputError(f"a budget is a fraction of the uncached MACs, above 0 and at most 1, not {self.limit}")

    def price(self, plan: Plan) -> float:
        """The cost of `plan` as a fraction of full passes everywhere."""
        return 1 / self.costs.speedup(plan)

    def allows(self, plan: Plan) -> bool:
        return self.price(plan) <= self.limit + 1e-9


def evenly(count: int, num_evals: int, warp: float = 1.0, closed: bool = False) -> set[int]:
    """`count` evaluations from the first on, evenly spaced.

    warp: above 1 they crowd at the noisy end, below 1 at the other. closed: the last evaluation is one of them; what
    goes wrong there nothing corrects any more.
    """
    last, gaps = (num_evals - 1, max(count - 1, 1)) if closed else (num_evals, count)
    return {min(round(last * (i / gaps) ** warp), num_evals - 1) for i in range(count)}


class Shape(NamedTuple):
    """The form of a regular plan: everything but how many full passes it has."""

    branches: tuple[int, ...]  # that are cached, outermost first
    counts: tuple[int, ...] = ()  # passes that make branches[k] anew, for all but the innermost
    warp: float = 1.0
    closed: bool = False

    def plan(self, num_evals: int, full: int) -> Plan:
        """The nested plan of this form with `full` full passes."""
        entries: list[Depth] = [self.branches[0]] * num_evals
        for depth, count in zip([*self.branches[1:], None], [*self.counts, full], strict=True):
            for i in evenly(count, num_evals, self.warp, self.closed):
                entries[i] = depth
        return tuple(entries)

    def largest(self, num_evals: int, budget: Budget) -> Plan | None:
        """The plan with as many full passes as the budget allows; None where it allows none."""
        plans = (self.plan(num_evals, full) for full in range(num_evals, 0, -1))
        return next((plan for plan in plans if budget.allows(plan)), None)


def shapes(num_evals: int, branches: Sequence[int]) -> list[Shape]:
    """Full passes around each candidate branch, alone and with null steps between.

    branches: the candidates, NULL among them where null steps are allowed.
    """
    found = [Shape((branch,), closed=closed) for branch in branches for closed in (False, True)]
    if NULL in branches:
        for branch in branches:
            if branch != NULL:
                for every in (1.5, 2, 3):  # evaluations from one network call to the next
                    found.append(Shape((NULL, branch), (round(num_evals / every),), closed=True))
    return found


def neighbour(plan: Plan, budget: Budget, branches: Sequence[int], rng: random.Random, tries: int = 200) -> Plan | None:
    """A plan that differs a little from `plan` and fits the budget; None where none was met in so many tries.

    Either one evaluation changes places with another near it, or a pass gets shallower where another gets deeper.
    """
    depths: list[Depth] = [*branches, None]
    for _ in range(tries if len(plan) > 1 else 0):
        changed = list(plan)
        if rng.random() < 0.6:
            i = rng.randrange(1, len(plan))
            j = i + rng.choice((-3, -2, -1, 1, 2, 3))
            if not 1 <= j < len(plan):
                continue
            changed[i], changed[j] = changed[j], changed[i]
        else:
            for i in rng.sample(range(1, len(plan)), min(2, len(plan) - 1)):
                changed[i] = rng.choice(depths)
        found = tuple(changed)
        if found != plan and budget.allows(found):
            return found
    return None
