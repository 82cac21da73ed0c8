"""Searching for plans: the shapes that a plan of given cost can have, and the small changes that lead to better ones.

Nothing here runs a network. What a plan is worth is asked of an `error`, which only the true end error of a cached
trajectory tells: errors added up along the way mislead, since later passes correct early errors and meet drifted
inputs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

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


def evenly(count: int, num_evals: int, warp: float = 1.0) -> set[int]:
    """`count` evaluations from the first on, evenly spaced. warp > 1 crowds them at the noisy end, below 1 at the
    other."""
    return {min(round(num_evals * (i / count) ** warp), num_evals - 1) for i in range(count)}


def layered(num_evals: int, branches: Sequence[int], counts: Sequence[int], warp: float = 1.0) -> Plan:
    """A nested plan: counts[k] passes, evenly spaced, that make the cached branches[k] (outermost first) anew."""
    entries: list[Depth] = [branches[0]] * num_evals
    for depth, count in zip([*branches[1:], None], counts, strict=True):
        for i in evenly(count, num_evals, warp):
            entries[i] = depth
    return tuple(entries)


def families(num_evals: int, budget: Budget, branches: Sequence[int], warps: Sequence[float] = (1.0,)) -> list[Plan]:
    """The regular plans that just fit the budget: full passes around each branch, alone and with null steps between.

    branches: the candidates, NULL among them where null steps are allowed.
    """
    found: dict[Plan, None] = {}
    for warp in warps:
        for branch in branches:
            for plan in _largest(num_evals, budget, [branch], [], warp):
                found[plan] = None
        for branch in branches:
            if NULL not in branches or branch == NULL:
                continue
            for every in (1.5, 2, 3):  # evaluations from one network call to the next
                calls = round(num_evals / every)
                for plan in _largest(num_evals, budget, [NULL, branch], [calls], warp):
                    found[plan] = None
    return list(found)


def neighbour(plan: Plan, budget: Budget, branches: Sequence[int], rng: random.Random, tries: int = 200) -> Plan | None:
    """A plan that differs a little from `plan` and fits the budget; None where none was met in so many tries.

    Either one evaluation changes places with another near it, or a pass gets shallower where another gets deeper.
    """
    depths: list[Depth] = [*branches, None]
    for _ in range(tries):
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


def _largest(
    num_evals: int, budget: Budget, branches: Sequence[int], counts: Sequence[int], warp: float
) -> Iterator[Plan]:
    """The layered plan with as many full passes as the budget allows, if it allows one."""
    for full in range(num_evals, 0, -1):
        plan = layered(num_evals, branches, [*counts, full], warp)
        if budget.allows(plan):
            yield plan
            return
