"""Every policy with every forecaster under every sampler: it runs, or is refused with a reason."""

import math

import pytest
import torch

from caching import FORECASTERS, NULL, POLICIES, MadeFor, SavedPlan, Uniform, make_forecaster, make_policy
from caching.adaptive_denoiser import cached_denoiser
from caching.forecast import CLOCKS
from configs import InputError
from samplers import DiffusionConfig, ImageNoise, Sampler, SamplerConfig
from samplers.sampler import SAMPLERS

PLAN = [None, NULL, 2, None, 1, NULL, None, 0, None]
POLICY_SETTINGS = {
    "none": {},
    "uniform": {"interval": 3, "branch": 2},
    "nonuniform": {"interval": 3, "branch": 2, "center": 3},
    "nested": {"branches": [NULL, 0, 2], "refresh": [2, 3, [0, 5]]},
    "explicit": {"entries": PLAN},
    "plan": {},
    "threshold": {"threshold": 0.5, "branch": 2},
    "adaptive": {"bound": 1.0, "branch": 2},
}
FORECASTER_SETTINGS = {
    "reuse": [{}],
    "zero": [{}],
    "lagrange": [{"order": order, "clock": clock} for order in (1, 3) for clock in CLOCKS],
    "taylor": [{"order": 2, "clock": clock} for clock in CLOCKS],
    "fitted": [{"table": {f"{i}:{depth}": [1.0] for i, depth in enumerate(PLAN) if depth is not None}}],
}


def test_the_lists_are_complete():
    assert POLICY_SETTINGS.keys() == POLICIES.keys()
    assert FORECASTER_SETTINGS.keys() == FORECASTERS.keys()


def final(cached, solver):
    noise = ImageNoise([1, 2], (3, 16, 16))
    cached.begin(solver.num_evals, solver.eval_log_snr)
    *_, last = solver.sample(cached, noise(), noise)
    return last.x


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("forecaster", FORECASTERS)
@pytest.mark.parametrize("policy", POLICIES)
def test_it_runs_and_repeats_itself_bit_for_bit(network, tmp_path, policy, forecaster, sampler):
    steps = 8 if sampler == "plms" else 9  # nine network evaluations either way
    solver = Sampler(SamplerConfig(name=sampler, steps=steps, spacing="leading"), DiffusionConfig())
    settings = {"name": policy, **POLICY_SETTINGS[policy]}
    if policy == "plan":
        made_for = MadeFor("", {}, list(solver.eval_timesteps), {})
        SavedPlan(PLAN, {"name": "reuse"}, made_for).save(tmp_path / "plan.json")
        settings["file"] = str(tmp_path / "plan.json")
    foreign = forecaster == "fitted" and policy not in ("none", "explicit", "plan")
    for words in FORECASTER_SETTINGS[forecaster]:
        cached = cached_denoiser(network, make_policy(settings), make_forecaster({"name": forecaster, **words}))
        if foreign:
            with pytest.raises(InputError, match="with the plan they were fitted to"):
                final(cached, solver)
            continue
        finals = [final(cached, solver) for _ in range(2)]
        assert torch.equal(*finals), "nothing of the first trajectory is seen by the second"
        assert torch.isfinite(finals[0]).all()


def test_extrapolation_is_not_reuse(network):
    """The combinations above would also pass with a forecaster that is never asked."""
    solver = Sampler(SamplerConfig(steps=9), DiffusionConfig())
    finals = []
    for words in (
        {"name": "reuse"},
        {"name": "lagrange", "order": 1},
        {"name": "lagrange", "order": 1, "clock": "log_snr"},
    ):
        cached = cached_denoiser(network, Uniform(3, 2), make_forecaster(words))
        finals.append(final(cached, solver))
    assert all(math.isfinite(float(x.sum())) for x in finals)
    assert not torch.equal(finals[0], finals[1])
    assert not torch.equal(finals[1], finals[2])


def test_zero_puts_zeros_in_the_features_place(network):
    cached = cached_denoiser(network, Uniform(2, 1), make_forecaster({"name": "zero"}))
    x, t = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.tensor([7])
    cached.begin(2)
    cached(x, t)
    _, tapped = network(x, t, taps=[1])
    without, _ = network(x, t, branch=1, feature=torch.zeros_like(tapped[1]))
    assert torch.equal(cached(x, t), without)
