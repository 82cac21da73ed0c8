"""Closed-form forecasts: exact where the feature is a polynomial in their clock, and finite where times repeat."""

import math

import numpy as np
import pytest
import torch

from caching import (
    FORECASTERS,
    NULL,
    CachedDenoiser,
    Explicit,
    Fitted,
    Lagrange,
    Moment,
    Nested,
    Reuse,
    Taylor,
    Uniform,
    make_forecaster,
    register_forecaster,
)
from caching.forecast import combine, weights_of
from configs import InputError

TIMES = [0, 3, 5, 10, 11, 17]
LOG_SNR = [-5.0, -4.1, -2.0, -1.5, 0.5, 0.9]


def moments(clock="evaluation"):
    return [Moment(time, snr) for time, snr in zip(TIMES, LOG_SNR, strict=True)]


def forecast(forecaster, function, clock="evaluation", count=4):
    """What is forecast for a feature that is `function` of time, at the last moment, from `count` before it."""
    now, *stored = moments()[::-1]
    stored = stored[: min(count, forecaster.history)]
    at = (lambda m: m.evaluation) if clock == "evaluation" else (lambda m: m.log_snr)
    weights = forecaster.weights(stored, now, 1)
    return sum(w * function(at(m)) for w, m in zip(weights, stored, strict=True)), function(at(now))


@pytest.mark.parametrize("clock", ["evaluation", "log_snr"])
@pytest.mark.parametrize("order", [0, 1, 2, 3])
def test_lagrange_is_exact_on_polynomials_of_its_order(order, clock):
    got, wanted = forecast(Lagrange(order, clock), lambda t: 2.0 - 0.7 * t + 0.3 * t**order, clock)
    if order:
        assert got == pytest.approx(wanted)
    higher, wanted = forecast(Lagrange(order, clock), lambda t: t ** (order + 1), clock)
    assert abs(higher - wanted) > 0.1


def test_lagrange_equals_numpys_interpolating_polynomial():
    stored = moments()[4:1:-1]
    weights = Lagrange(2).weights(stored, moments()[5], 0)
    values = np.array([1.0, -2.0, 4.0])
    polynomial = np.polyfit([m.evaluation for m in stored], values, 2)
    assert np.dot(weights, values) == pytest.approx(np.polyval(polynomial, TIMES[5]))


def test_taylor_of_order_one_is_linear_extrapolation():
    stored, now = moments()[3:1:-1], moments()[4]
    assert Taylor(1).weights(stored, now, 0) == pytest.approx(Lagrange(1).weights(stored, now, 0))


def test_taylor_by_hand():
    """Full passes every N: F + k ΔF/N + k²/2 Δ²F/N² (TaylorSeer's formula)."""
    stored, now = [Moment(20), Moment(15), Moment(10)], Moment(23)
    f = [7.0, 4.0, -2.0]
    first, second = f[0] - f[1], f[0] - 2 * f[1] + f[2]
    wanted = f[0] + 3 / 5 * first + 9 / 50 * second
    assert np.dot(Taylor(2).weights(stored, now, 0), f) == pytest.approx(wanted)


def test_early_in_a_trajectory_the_order_is_what_the_store_allows():
    now = Moment(5)
    assert Lagrange(3).weights([Moment(0)], now, 0) == [1.0]
    assert Lagrange(3).weights([Moment(2), Moment(0)], now, 0) == pytest.approx(
        Lagrange(1).weights([Moment(2), Moment(0)], now, 0)
    )


@pytest.mark.parametrize("forecaster", [Lagrange(2, "log_snr"), Taylor(2, "log_snr")])
def test_of_features_at_the_same_time_the_newest_counts(forecaster):
    """Quadratic spacing and PLMS visit a timestep twice."""
    stored = [Moment(3, 1.0), Moment(2, 0.5), Moment(1, 0.5)]
    weights = forecaster.weights(stored, Moment(4, 1.5), 0)
    assert weights[2] == 0
    assert weights[:2] == pytest.approx([2.0, -1.0])


def test_log_snr_must_be_known():
    with pytest.raises(InputError, match=r"sampler\.eval_log_snr"):
        Lagrange(1, "log_snr").weights([Moment(1), Moment(0)], Moment(2), 0)


def test_the_weights_of_constant_features_add_up_to_one():
    for forecaster in (Reuse(), Lagrange(3), Taylor(3), Lagrange(2, "log_snr")):
        stored = moments()[4::-1][: forecaster.history]
        assert sum(forecaster.weights(stored, moments()[5], 0)) == pytest.approx(1)


@pytest.mark.parametrize("settings", [{"name": "lagrange", "order": 4}, {"name": "taylor", "order": -1},
                                      {"name": "lagrange", "clock": "sigma"}, {"name": "lagrang"},
                                      {"name": "reuse", "order": 1}])  # fmt: skip
def test_settings_that_do_not_exist_are_refused(settings):
    with pytest.raises(InputError):
        make_forecaster(settings)


def test_fitted_weights_belong_to_their_plan():
    fitted = make_forecaster({"name": "fitted", "table": {"3:1": [1.5, -0.5]}})
    stored = [Moment(2), Moment(0)]
    assert fitted.history == 2
    assert fitted.weights(stored, Moment(3), 1) == [1.5, -0.5]
    for now, branch, kept in ((4, 1, stored), (3, 0, stored), (3, 1, stored[:1])):
        with pytest.raises(InputError, match="with the plan they were fitted to"):
            fitted.weights(kept, Moment(now), branch)


def test_a_registered_forecaster_can_be_configured():
    from dataclasses import dataclass

    @register_forecaster("mean")
    @dataclass(frozen=True)
    class Mean:
        history: int = 2

        def weights(self, stored, now, branch):
            return [1 / len(stored)] * len(stored)

    try:
        assert make_forecaster({"name": "mean", "history": 3}) == Mean(3)
    finally:
        FORECASTERS.pop("mean")


def test_auto_is_no_name_for_a_forecaster():
    with pytest.raises(InputError, match="no forecaster can be called 'auto'"):
        register_forecaster("auto")(Lagrange)


class Given:
    """Gives what it is told to."""

    def __init__(self, history=1, weights=(1.0,)):
        self.history, self._weights = history, weights

    def weights(self, stored, now, branch):
        return self._weights


@pytest.mark.parametrize("weights", [None, 1.0, [], [1.0, 0.0], [math.nan], [math.inf], ["x"], [None]])
def test_weights_that_are_not_one_finite_number_for_each_feature_are_refused(weights):
    with pytest.raises(InputError, match=r"Given\.weights gives .* for 1 stored features at evaluation 3"):
        weights_of(Given(weights=weights), [Moment(0)], Moment(3), 1)


def test_weights_of_any_kind_of_number_are_taken():
    assert weights_of(Given(weights=np.array([0.5])), [Moment(0)], Moment(3), 1) == [0.5]
    assert weights_of(Given(weights=torch.tensor([0.5])), [Moment(0)], Moment(3), 1) == [0.5]


@pytest.mark.parametrize("history", [0, -1, None, 1.5])
def test_a_history_that_keeps_nothing_is_refused(history):
    with pytest.raises(InputError, match=r"Given\.history is .*; it must be a whole number from 1 on"):
        CachedDenoiser(None, Uniform(), Given(history))


def test_weights_of_zero_read_nothing():
    """A slot whose weight is 0 must not spread what may stand in it."""
    bad = torch.full((2,), math.nan)
    assert torch.equal(combine([2.0, 0.0], [torch.ones(2), bad]), torch.full((2,), 2.0))
    assert torch.equal(combine([1.0, 0.0], [torch.ones(2), bad]), torch.ones(2))


# --- null steps and nested plans in the denoiser


class Line:
    """A network whose output grows by one per evaluation at which it is called; it has three branches."""

    num_branches = 3

    def __init__(self):
        self.clock, self.calls = -1, []

    def __call__(self, x, t, cond=None, *, branch=None, feature=None, taps=()):
        self.calls.append((int(t[0]), branch, tuple(taps)))
        return torch.full_like(x, float(t[0])), {tap: torch.full((1, 1), float(t[0])) for tap in taps}


def outputs(policy, forecaster, evals, network=None):
    network = network or Line()
    denoiser = CachedDenoiser(network, policy, forecaster)
    denoiser.begin(evals)
    made = [denoiser(torch.zeros(1, 1), torch.tensor([i])) for i in range(evals)]
    return [float(eps) for eps in made], network.calls


def test_a_null_step_calls_no_network():
    eps, calls = outputs(Uniform(interval=2, branch=NULL), Reuse(), 6)
    assert eps == [0, 0, 2, 2, 4, 4]
    assert [i for i, _, _ in calls] == [0, 2, 4]


def test_null_steps_extrapolate_a_linear_output_exactly():
    eps, _ = outputs(Uniform(interval=2, branch=NULL), Lagrange(1), 8)
    assert eps == [0, 0, 2, 3, 4, 5, 6, 7]


def test_what_a_null_step_returned_stays_as_it_was():
    """Multistep samplers keep what they get; the store's buffers are written again."""
    denoiser = CachedDenoiser(Line(), Uniform(interval=2, branch=NULL), Reuse())
    denoiser.begin(4)
    kept = [denoiser(torch.zeros(1, 1), torch.tensor([i])) for i in range(4)]
    assert [float(eps) for eps in kept] == [0, 0, 2, 2]


def test_partial_passes_refresh_the_stored_output():
    eps, calls = outputs(Nested(branches=[NULL, 1], refresh=[2, 4]), Reuse(), 6)
    assert [(i, branch) for i, branch, _ in calls] == [(0, None), (2, 1), (4, None)]
    assert eps == [0, 0, 2, 2, 4, 4]


def test_each_branch_of_a_nested_plan_is_refreshed_at_its_own_rate():
    _, calls = outputs(Nested(branches=[0, 2], refresh=[2, 4]), Reuse(), 8)
    assert [branch for _, branch, _ in calls] == [None, 0, 2, 0, None, 0, 2, 0]
    assert [taps for _, _, taps in calls][:4] == [(0, 2), (), (0,), ()]


def test_fitted_weights_reach_the_feature():
    table = {"1:-1": [3.0], "3:-1": [1.0, 2.0]}
    eps, _ = outputs(Explicit(full=[0, 2], branch=NULL), Fitted(table), 4)
    assert eps == [0, 0, 2, 2]
    eps, _ = outputs(Explicit(full=[1, 0], branch=NULL), Fitted({"2:-1": [5.0, 1.0], "3:-1": [0.0, 4.0]}), 4)
    assert eps == [0, 1, 5, 0]
