"""PLMS against CompVis and diffusers."""

import diffusers
import pytest
import torch

from samplers import DiffusionConfig, Sampler, SamplerConfig, guide
from samplers.plms import ADAMS_BASHFORTH


@pytest.mark.parametrize("family", ["ldm", "churches", "sd"])
@pytest.mark.parametrize("scale", ["1", "7.5"])
@pytest.mark.parametrize("steps", [4, 10, 50])
def test_compvis_with_a_closed_form_eps(golden, recorder, toy_eps, compvis, family, scale, steps):
    toy, run = golden("toy_samplers"), f"{family}_plms{steps}_eta0_cfg{scale}"
    config = SamplerConfig("plms", steps, offset=1, final="first")
    sampler = Sampler(config, compvis(*toy.config["schedules"][family]))
    record = recorder(guide(toy_eps, toy.tensor("c"), toy.tensor("uc"), float(scale)))
    states = list(sampler.sample(record, toy.tensor("xT"), record.noise))
    atol = 5e-6 * float(toy[f"{run}_out__stats"][2])
    toy.check(f"{run}_out", states[-1].x, atol)
    if steps < 50:
        toy.check(f"{run}_xs", torch.stack([step.x for step in states]), atol)
    assert tuple(record.timesteps) == sampler.eval_timesteps


def test_compvis_with_a_guided_network(golden, recorder, network, compvis):
    run = golden("sampler_ldm_plms10_eta0_cfg3")
    sampler = Sampler(SamplerConfig("plms", 10, offset=1, final="first"), compvis(0.0015, 0.0195))
    record = recorder(network("ldm_tiny_class"))
    denoiser = guide(record, run.tensor("cond"), run.tensor("uncond"), 3.0)
    states = list(sampler.sample(denoiser, run.tensor("xT"), record.noise))
    run.check("x_after_1", states[0].x, atol=1e-4)  # before the chain amplifies rounding
    run.check("xs", torch.stack([step.x for step in states]), atol=4 * 2.3e-4)
    run.check("pred_x0s", torch.stack([step.x0 for step in states]), atol=4 * 2.3e-4)
    run.check("out", states[-1].x, atol=4 * 2.3e-4)
    assert record.timesteps == run["model_timesteps"].tolist()
    assert record.batches == run["model_batch"].tolist()


@pytest.mark.parametrize("steps", [2, 10, 50])
def test_equals_diffusers_pndm(recorder, toy_eps, x_t, steps):
    scheduler = diffusers.PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1,
        set_alpha_to_one=False,
    )  # fmt: skip
    scheduler.set_timesteps(steps)
    theirs = x_t
    for t in scheduler.timesteps:
        theirs = scheduler.step(toy_eps(theirs, t.expand(2)), t, theirs).prev_sample

    config = SamplerConfig("plms", steps, spacing="leading", offset=1, final="first")
    sampler = Sampler(config, DiffusionConfig("scaled_linear", 0.00085, 0.012, precision="float32"))
    record = recorder(toy_eps)
    *_, last = sampler.sample(record, x_t, record.noise)
    assert record.timesteps == scheduler.timesteps.tolist()
    torch.testing.assert_close(last.x, theirs, rtol=0, atol=2e-5 * float(theirs.abs().max()))


def test_50_steps_are_51_evaluations_with_the_second_timestep_twice():
    sampler = Sampler(SamplerConfig("plms", 50, offset=1, final="first"), DiffusionConfig())
    assert sampler.eval_timesteps == (981, 961, *range(961, 0, -20))
    assert sampler.num_evals == 51


def test_one_step_evaluates_its_timestep_twice(recorder, toy_eps, x_t):
    sampler = Sampler(SamplerConfig("plms", 1), DiffusionConfig())
    record = recorder(toy_eps)
    assert len(list(sampler.sample(record, x_t, record.noise))) == 1
    assert tuple(record.timesteps) == sampler.eval_timesteps == (0, 0)


@pytest.mark.parametrize("order", [2, 3, 4])
def test_the_weights_integrate_polynomials_below_their_order(order):
    """Adams-Bashforth of order k integrates t^n over [0, 1] exactly from its values at 0, -1, …, for n < k."""
    for n in range(order):
        integral = sum(weight * float(-i) ** n for i, weight in enumerate(ADAMS_BASHFORTH[order]))
        assert integral == pytest.approx(1 / (n + 1))
