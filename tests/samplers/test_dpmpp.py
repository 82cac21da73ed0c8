"""DPM-Solver++ 2M against diffusers, and against the exact solution for Gaussian data."""

import math

import diffusers
import pytest
import torch

from samplers import DiffusionConfig, Sampler, SamplerConfig, Timetable, ddim, dpmpp_2m, timetable

FINAL_SIGMAS = {"one": "zero", "first": "sigma_min"}


def run_diffusers(table, final, eps, x, clip=False, **settings):
    """(x, x_0) after each step of diffusers at the timesteps of `table`."""
    # Its thresholding with ratio 1 and at most 1 is a clip to [-1, 1].
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4, beta_end=0.02, algorithm_type="dpmsolver++", solver_order=2, solver_type="midpoint",
        final_sigmas_type=FINAL_SIGMAS[final], thresholding=clip, dynamic_thresholding_ratio=1.0, **settings,
    )  # fmt: skip
    scheduler.set_timesteps(timesteps=list(table.timesteps))
    if x.dtype == torch.float64:
        a = torch.tensor([*table.alphas_cumprod, table.alphas_cumprod_next[-1]], dtype=torch.float64)
        scheduler.sigmas = ((1 - a) / a).sqrt()
    states = []
    for t in scheduler.timesteps:
        x = scheduler.step(eps(x, t.expand(2)), t, x).prev_sample
        states.append((x, scheduler.model_outputs[-1]))
    return states


def assert_equals(states, expected, atol):
    for state, (x, x0) in zip(states, expected, strict=True):
        torch.testing.assert_close(state.x, x, rtol=0, atol=atol * float(x.abs().max()))
        torch.testing.assert_close(state.x0, x0, rtol=0, atol=atol * float(x0.abs().max()))


@pytest.mark.parametrize("final", ["one", "first"])
@pytest.mark.parametrize(("spacing", "steps"), [("uniform", 20), ("uniform", 50), ("quadratic", 15), ("leading", 100)])
def test_equals_diffusers(toy_eps, x_t, spacing, steps, final):
    sampler = Sampler(SamplerConfig("dpmpp_2m", steps, spacing, 1, final), DiffusionConfig(precision="float32"))
    expected = run_diffusers(sampler.table, final, toy_eps, x_t)
    assert_equals(sampler.sample(toy_eps, x_t, None), expected, atol=1e-5)


@pytest.mark.parametrize("final", ["one", "first"])
@pytest.mark.parametrize("clip", [False, True])
def test_equals_diffusers_in_float64(toy_eps, x_t, monkeypatch, final, clip):
    monkeypatch.setattr(torch, "float32", torch.float64)  # what diffusers computes its steps in
    config = SamplerConfig("dpmpp_2m", 20, "quadratic", 1, final, clip=clip)
    sampler = Sampler(config, DiffusionConfig(precision="float64"))
    x = x_t.double()
    expected = run_diffusers(sampler.table, final, toy_eps, x, clip)
    assert expected[-1][0].dtype == torch.float64
    assert_equals(sampler.sample(toy_eps, x, None), expected, atol=1e-12)


@pytest.mark.parametrize("steps", [1, 2, 5, 14])
def test_below_15_steps_equals_diffusers_without_its_lower_order_of_a_finite_last_step(toy_eps, x_t, steps):
    diffusion = DiffusionConfig(precision="float32")
    for final, settings in (("one", {}), ("first", {"lower_order_final": False})):
        table = timetable(diffusion, "leading", steps, offset=1, final=final)
        expected = run_diffusers(table, final, toy_eps, x_t, **settings)
        assert_equals(dpmpp_2m(toy_eps, x_t, table), expected, atol=1e-5)


def log_snr_table(steps, power=1.0):
    """λ from -3 to 3, uniformly at power 1; timestep i is simply the i-th step from the end."""
    lambdas = [6 * (i / steps) ** power - 3 for i in range(steps + 1)]
    alphas_cumprod = tuple(1 / (1 + math.exp(-2 * value)) for value in lambdas)
    return Timetable(tuple(range(steps))[::-1], alphas_cumprod[:-1], alphas_cumprod[1:])


def gaussian_error(sampler, table, std=0.5):
    """The error in x of a run on data N(0, std²), whose probability flow keeps x in proportion to its deviation."""

    def deviation(a):
        return (a * std**2 + 1 - a) ** 0.5

    def eps(x, t):
        a = alphas_cumprod[int(t[0])]
        return (1 - a) ** 0.5 / deviation(a) ** 2 * x

    alphas_cumprod = dict(zip(table.timesteps, table.alphas_cumprod, strict=True))
    x = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    *_, last = sampler(eps, x, table)
    return abs(float(last.x) - deviation(table.alphas_cumprod_next[-1]) / deviation(table.alphas_cumprod[0]))


@pytest.mark.parametrize("power", [1.0, 1.5])
def test_half_the_step_is_a_quarter_of_the_error_where_ddim_keeps_half(power):
    coarse, fine = log_snr_table(80, power), log_snr_table(160, power)

    def ratio(sampler):
        return gaussian_error(sampler, coarse) / gaussian_error(sampler, fine)

    assert ratio(dpmpp_2m) == pytest.approx(4, rel=0.1)
    assert ratio(lambda eps, x, table: ddim(eps, x, table, None)) == pytest.approx(2, rel=0.1)
    assert gaussian_error(dpmpp_2m, coarse) < gaussian_error(lambda *run: ddim(*run, None), coarse) / 5


def test_repeated_timesteps_change_nothing_but_the_number_of_evaluations(recorder, toy_eps, x_t):
    table = timetable(DiffusionConfig(), "quadratic", 100)
    steps = {step[0]: step for step in table if step[1] != step[2]}.values()
    record = recorder(toy_eps)
    *_, repeated = dpmpp_2m(record, x_t, table)
    *_, once = dpmpp_2m(toy_eps, x_t, Timetable(*zip(*steps, strict=True)))
    assert (len(record.timesteps), len(steps)) == (100, 96)
    assert repeated.x.isfinite().all()
    torch.testing.assert_close(repeated.x, once.x, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("final", ["one", "first"])
def test_a_repeated_timestep_leaves_x_as_it_is(toy_eps, x_t, final):
    table = timetable(DiffusionConfig(), "quadratic", 100, final=final)
    before, repeats = x_t, 0
    for step, (_, a, a_next) in zip(dpmpp_2m(toy_eps, x_t, table), table, strict=True):
        if a == a_next:
            repeats += 1
            assert torch.equal(step.x, before)
        before = step.x
    assert repeats == (4 if final == "one" else 5)  # ᾱ_0 to ᾱ_0 is one more


def test_the_first_step_is_ddim(toy_eps, x_t):
    table = timetable(DiffusionConfig(), "quadratic", 10)
    ours, theirs = next(dpmpp_2m(toy_eps, x_t, table)), next(ddim(toy_eps, x_t, table, None))
    torch.testing.assert_close(ours.x, theirs.x, rtol=1e-5, atol=1e-5)


def test_the_last_step_leads_to_x0_itself(toy_eps, x_t):
    *_, last = dpmpp_2m(toy_eps, x_t, timetable(DiffusionConfig(), "uniform", 10))
    assert torch.equal(last.x, last.x0)


def test_clip_keeps_every_x0_within_the_range_of_pixels(toy_eps, x_t):
    states = list(dpmpp_2m(toy_eps, x_t, timetable(DiffusionConfig(), "quadratic", 10), clip=True))
    assert max(float(state.x0.abs().max()) for state in states) == 1
