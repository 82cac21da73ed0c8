"""Shapes of plans under a budget, small changes to them, and published schedules from drift."""

import itertools
import random

import numpy as np
import pytest

from caching import (
    NULL,
    Budget,
    Macs,
    Nested,
    PassCosts,
    Shape,
    Uniform,
    check_plan,
    drift_threshold,
    full_evals,
    least_drift,
    neighbour,
    shapes,
)
from caching.search import evenly
from configs import InputError

COSTS = PassCosts(Macs(layers=100), partial=tuple(Macs(layers=20 * (b + 1)) for b in range(4)), kept=(Macs(),) * 4)


def test_a_price_is_a_share_of_full_passes():
    assert Budget(COSTS, 1.0).price((None, 0, NULL, None)) == pytest.approx((100 + 20 + 0 + 100) / 400)


@pytest.mark.parametrize("limit", [0, -1, 1.1])
def test_budgets_outside_of_0_to_1_are_refused(limit):
    with pytest.raises(InputError, match="fraction of the uncached MACs"):
        Budget(COSTS, limit)


def test_even_spacing_is_that_of_uniform_caching():
    assert evenly(4, 20) == {0, 5, 10, 15}
    assert evenly(5, 21, closed=True) == {0, 5, 10, 15, 20}
    assert evenly(1, 7, closed=True) == {0}


def test_warps_crowd_full_passes_at_one_end():
    assert np.mean(sorted(evenly(5, 100, 1.5))) < np.mean(sorted(evenly(5, 100))) < np.mean(sorted(evenly(5, 100, 0.7)))


def test_a_shape_around_one_branch_is_uniform_caching():
    assert Shape((1,)).plan(20, 4) == Uniform(5, 1).plan(20)


def test_layers_are_nested_plans():
    plan = Shape((NULL, 2), (10,)).plan(20, 5)
    assert plan == Nested(branches=[NULL, 2], refresh=[2, 4]).plan(20)


@pytest.mark.parametrize("limit", [0.3, 0.5, 0.8])
def test_shapes_use_the_budget_up(limit):
    budget = Budget(COSTS, limit)
    found = [(shape, shape.largest(20, budget)) for shape in shapes(20, [NULL, 0, 1])]
    assert any(plan for _, plan in found)
    for shape, plan in found:
        if plan is None:
            assert not budget.allows(shape.plan(20, 1))
            continue
        check_plan(plan, 20, 4)
        assert budget.allows(plan)
        assert not budget.allows(shape.plan(20, len(full_evals(plan)) + 1))


def test_neighbours_fit_budget_and_network():
    budget, rng = Budget(COSTS, 0.5), random.Random(0)
    plan = Shape((1,)).largest(20, budget)
    seen = set()
    for _ in range(300):
        plan = neighbour(plan, budget, [NULL, 0, 1], rng)
        check_plan(plan, 20, 4)
        assert budget.allows(plan)
        seen |= set(plan)
    assert seen == {None, NULL, 0, 1}


def test_a_budget_that_leaves_no_choice_has_no_neighbour():
    assert neighbour((None, 0), Budget(COSTS, 0.6), [0], random.Random(0)) is None


# --- schedules from drift


def test_the_dynamic_programme_finds_the_best_of_all_schedules():
    rng = np.random.default_rng(0)
    features = np.cumsum(rng.random(9) ** 3)
    distance = np.abs(features[:, None] - features)

    def cost(full):
        return sum(distance[max(j for j in full if j <= m), m] for m in range(9))

    for count in (1, 2, 3, 4):
        every = [(0, *rest) for rest in itertools.combinations(range(1, 9), count - 1)]
        assert cost(least_drift(distance, count)) == pytest.approx(min(map(cost, every)))
        assert len(least_drift(distance, count)) == count


def test_the_threshold_is_set_for_the_wanted_number_of_passes():
    features = np.linspace(0, 1, 20) ** 2
    distance = np.abs(features[:, None] - features)
    for count in (2, 4, 7):
        full = drift_threshold(distance, count)
        assert full[0] == 0
        assert len(full) == count
        assert full[1] > 19 - full[-1], "features move faster at the end"
