"""Ancestral sampling against Ho et al.'s tables, ermongroup, CompVis, guided-diffusion and diffusers."""

import diffusers
import numpy as np
import pytest
import torch

from configs import InputError
from samplers import DiffusionConfig, Sampler, SamplerConfig, Timetable, ddpm, timetable
from samplers.ddpm import fixed_sigma, posterior_mean, posterior_variance


def part(table, start, end):
    """The steps of `table` that begin at the timesteps from `start` down to `end`."""
    steps = slice(table.timesteps.index(start), table.timesteps.index(end) + 1)
    return Timetable(table.timesteps[steps], table.alphas_cumprod[steps], table.alphas_cumprod_next[steps])


@pytest.fixture
def full():
    """All 1000 timesteps of Ho et al."""
    return timetable(DiffusionConfig(), "uniform", 1000)


@pytest.mark.parametrize("variance", ["fixedsmall", "fixedlarge"])
def test_coefficients_of_ho_et_al(golden, full, variance):
    tables = golden(f"sampler_ancestral_{variance}")
    one, zero = torch.ones(()), torch.zeros(())
    logvar, coef1, coef2 = [], [], []
    for (_, a, a_next), beta in reversed(list(zip(full, full.betas, strict=True))):
        sigma = fixed_sigma(variance, beta, posterior_variance(a, a_next, beta))
        logvar.append(2 * np.log(max(sigma, 1e-10)))
        coef1.append(float(posterior_mean(one, zero, a, a_next, beta)))
        coef2.append(float(posterior_mean(zero, one, a, a_next, beta)))
    # The entry of t = 0 is a convention (there is no noise at t = 0); fixedlarge puts the posterior's of t = 1 there.
    first = 1 if variance == "fixedlarge" else 0
    assert np.allclose(logvar[first:], tables["logvar"][first:], rtol=1e-6, atol=0)
    assert np.allclose(coef1, tables["posterior_mean_coef1"], rtol=1e-6, atol=0)
    assert np.allclose(coef2, tables["posterior_mean_coef2"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize(("variance", "alt"), [("fixedsmall", 3.6e-7), ("fixedlarge", 3.0e-7)])
def test_single_steps_of_ho_et_al(golden, network, full, variance, alt):
    run = golden(f"sampler_ancestral_{variance}")
    denoiser = network("ddim_tiny16")
    for t in (999, 500, 1, 0):
        # A step is the last one, without noise, where nothing follows; t = 0 follows all but t = 0 itself.
        table = part(full, t, max(t - 1, 0))
        step = next(ddpm(denoiser, run.tensor("x"), table, lambda t=t: run.tensor(f"noise_t{t}"), variance=variance))
        a = table.alphas_cumprod[0]
        run.check(
            f"x0_t{t}", step.x0, atol=1e-6 + 4 * 3.5e-6 * ((1 - a) / a) ** 0.5
        )  # the network's alt, as x_0 has it
        run.check(f"out_t{t}", step.x, atol=4 * alt)


@pytest.mark.parametrize(("variance", "alt"), [("fixedsmall", 3.6e-7), ("fixedlarge", 3.0e-7)])
def test_a_chain_of_ho_et_al(golden, recorder, network, full, variance, alt):
    run = golden(f"sampler_ancestral_{variance}")
    record = recorder(network("ddim_tiny16"), lambda k: run.tensor("chain20_noise")[k])
    *_, last = ddpm(record, run.tensor("x"), part(full, 19, 0), record.noise, variance=variance)
    run.check("chain20_out_from_t19", last.x, atol=4 * alt)


@pytest.mark.parametrize("clip", [False, True])
def test_single_steps_of_compvis(golden, network, clip):
    """Its ancestral tables are float64 throughout, unlike those of its DDIM."""
    run = golden("sampler_ldm_psample")
    denoiser = network("ldm_tiny_uncond")
    table = timetable(DiffusionConfig("scaled_linear", 0.0015, 0.0195), "uniform", 1000)
    for t in (999, 500, 1, 0):
        steps = part(table, t, max(t - 1, 0))
        step = next(ddpm(denoiser, run.tensor("x"), steps, lambda t=t: run.tensor(f"noise_t{t}"), clip=clip))
        run.check(f"out_t{t}_clip" if clip else f"out_t{t}", step.x, atol=4 * 2.4e-7)


@pytest.mark.parametrize(("golden_spacing", "spacing"), [("uniform", "uniform"), ("quad", "quadratic")])
def test_ermongroup_ddpm_noisy_with_a_closed_form_eps(golden, recorder, toy_eps, ermongroup, golden_spacing, spacing):
    toy, run = golden("toy_samplers"), f"ddpmnoisy_{golden_spacing}10"
    config = SamplerConfig("ddpm", 10, spacing, variance="fixedlarge", clip=True)
    record = recorder(toy_eps, lambda k: toy.normal(f"toy/{run}/noise{k}", (2, 3, 4, 4)))
    states = list(Sampler(config, ermongroup).sample(record, toy.tensor("xT"), record.noise))
    toy.check(f"{run}_xs", torch.stack([step.x for step in states]), atol=5e-6)
    toy.check(f"{run}_out", states[-1].x, atol=5e-6)


@pytest.mark.parametrize(
    ("steps", "spacing"),
    [(20, "quadratic"), (63, "quadratic"), (100, "quadratic"), (100, "uniform"), (1000, "uniform")],
)
def test_ddpm_noisy_in_float32(recorder, toy_eps, x_t, ermongroup, steps, spacing):
    """Written as in section 4 of Song et al. 2020's code release, in float32 throughout: where ᾱ hardly changes β has
    few digits there, and the trajectory follows these."""
    alphas_cumprod = torch.cat([torch.ones(1), torch.from_numpy(ermongroup.alphas_cumprod()).float()])
    sampler = Sampler(SamplerConfig("ddpm", steps, spacing, variance="fixedlarge"), ermongroup)
    noise = [torch.randn(x_t.shape, generator=torch.Generator().manual_seed(k)) for k in range(steps)]
    x, wanted, timesteps = x_t, [], sampler.table.timesteps
    for k, (t, t_next) in enumerate(zip(timesteps, [*timesteps[1:], -1], strict=True)):
        a, a_next = alphas_cumprod[t + 1], alphas_cumprod[t_next + 1]
        beta = 1 - a / a_next
        eps = toy_eps(x, torch.full((len(x),), t))
        x0 = ((1 / a).sqrt() * x - (1 / a - 1).sqrt() * eps).clamp(-1, 1)
        x = (a_next.sqrt() * beta * x0 + (1 - beta).sqrt() * (1 - a_next) * x) / (1 - a)
        x = x + (0.5 * beta.log()).exp() * noise[k] if t > 0 else x
        wanted.append(x)
    record = recorder(toy_eps, lambda k: noise[k])
    states = [step.x for step in sampler.sample(record, x_t, record.noise)]
    torch.testing.assert_close(torch.stack(states), torch.stack(wanted), atol=5e-6, rtol=1e-6)


def test_ermongroup_ddpm_noisy_with_a_network(golden, recorder, network, ermongroup):
    run = golden("sampler_ddpm_noisy_uniform10")
    sampler = Sampler(SamplerConfig("ddpm", 10, variance="fixedlarge", clip=True), ermongroup)
    record = recorder(network("ddim_tiny16"), lambda k: run.tensor("noise")[k])
    states = list(sampler.sample(record, run.tensor("xT"), record.noise))
    run.check("xs", torch.stack([step.x for step in states]), atol=4 * 6.4e-6)
    run.check("x0_last", states[-1].x0, atol=4 * 6.4e-6)
    run.check("out", states[-1].x, atol=4 * 6.4e-6)
    assert record.timesteps == run["model_timesteps"].tolist()


@pytest.mark.parametrize(
    ("name", "weights", "variance", "alt"),
    [
        ("neworder_cond_learned_range", "guided_tiny_neworder_cond", "learned_range", 2.5e-5),
        ("plain_eps_fixed_large", "guided_tiny_plain_eps", "fixedlarge", 8.8e-6),
    ],
)
def test_guided_diffusion_respaced(golden, recorder, network, name, weights, variance, alt):
    run = golden(f"sampler_guided_tiny_{name}_p_10")
    labels = None if run.config["y"] is None else torch.tensor(run.config["y"])
    unet = network(weights)
    record = recorder(lambda x, t: unet(x, t, labels), lambda k: run.tensor("noise")[k])
    sampler = Sampler(SamplerConfig("ddpm", 10, "fractional", variance=variance, clip=True), DiffusionConfig())
    *_, last = sampler.sample(record, run.tensor("xT"), record.noise)
    run.check("out", last.x, atol=4 * alt)
    assert record.timesteps == run["model_timesteps"].tolist()


@pytest.mark.parametrize("variance", ["fixedsmall", "fixedlarge", "learned_range"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("steps", [10, 1000])
def test_equals_diffusers(toy_eps, x_t, variance, clip, steps):
    def denoiser(x, t):
        eps = toy_eps(x, t)
        return torch.cat([eps, torch.cos(3 * x)], dim=1) if variance == "learned_range" else eps

    scheduler = diffusers.DDPMScheduler(
        variance_type=variance.replace("fixed", "fixed_"), clip_sample=clip, timestep_spacing="leading"
    )
    scheduler.set_timesteps(steps)
    generator, theirs = torch.Generator().manual_seed(1), x_t
    for t in scheduler.timesteps:
        theirs = scheduler.step(denoiser(theirs, t.expand(2)), t, theirs, generator=generator).prev_sample

    generator = torch.Generator().manual_seed(1)
    config = SamplerConfig("ddpm", steps, "leading", variance=variance, clip=clip)
    sampler = Sampler(config, DiffusionConfig(precision="float32"))
    *_, last = sampler.sample(denoiser, x_t, lambda: torch.randn(x_t.shape, generator=generator))
    # diffusers computes 1 - ᾱ/ᾱ' in float32, where few digits of it are left at 1000 steps.
    atol = (1e-4 if steps == 1000 else 1e-5) * float(theirs.abs().max())
    torch.testing.assert_close(last.x, theirs, rtol=0, atol=atol)


def test_the_learned_range_ends_at_the_fixed_variances(recorder, toy_eps, x_t, draws):
    table = timetable(DiffusionConfig(), "fractional", 10)
    for v, variance in ((1.0, "fixedlarge"), (-1.0, "fixedsmall")):
        learned = recorder(lambda x, t, v=v: torch.cat([toy_eps(x, t), torch.full_like(x, v)], dim=1), draws)
        fixed = recorder(toy_eps, draws)
        *_, a = ddpm(learned, x_t, table, learned.noise, variance="learned_range")
        *_, b = ddpm(fixed, x_t, table, fixed.noise, variance=variance)
        torch.testing.assert_close(a.x, b.x)


def test_fixed_variances_leave_a_learned_one_aside(recorder, toy_eps, x_t, draws):
    table = timetable(DiffusionConfig(), "uniform", 10)
    both = recorder(lambda x, t: torch.cat([toy_eps(x, t), torch.cos(x)], dim=1), draws)
    eps = recorder(toy_eps, draws)
    *_, a = ddpm(both, x_t, table, both.noise)
    *_, b = ddpm(eps, x_t, table, eps.noise)
    assert torch.equal(a.x, b.x)


def test_a_learned_range_needs_a_network_that_has_learned_it(toy_eps, x_t, draws):
    table = timetable(DiffusionConfig(), "uniform", 10)
    with pytest.raises(InputError, match="twice as many channels out as in"):
        next(ddpm(toy_eps, x_t, table, lambda: draws(0), variance="learned_range"))


def test_the_last_step_adds_no_noise(recorder, toy_eps, x_t, draws):
    record = recorder(toy_eps, draws)
    *_, last = ddpm(record, x_t, timetable(DiffusionConfig(), "uniform", 10), record.noise)
    assert torch.equal(last.x, last.x0)
