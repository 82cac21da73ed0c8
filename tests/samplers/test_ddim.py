"""DDIM against ermongroup/ddim, CompVis and diffusers."""

import itertools

import diffusers
import pytest
import torch

from samplers import DiffusionConfig, Sampler, SamplerConfig, ddim, guide, timetable

SPACINGS = {"uniform": "uniform", "quad": "quadratic"}


def assert_run_equals(file, run, steps, atol):
    """The final state, and every state where the golden has them, to atol times the largest value."""
    scale = float(file[f"{run}_out__stats"][2])
    file.check(f"{run}_out", steps[-1].x, atol * scale)
    if f"{run}_xs" in file.file.z.files:
        file.check(f"{run}_xs", torch.stack([step.x for step in steps]), atol * scale)


@pytest.mark.parametrize(
    ("spacing", "steps", "eta"),
    [
        *itertools.product(("uniform", "quad"), (10, 100), ("0", "0.3", "1")),
        *itertools.product(("uniform",), (7,), ("0", "0.3", "1")),
    ],
)
def test_ermongroup_with_a_closed_form_eps(golden, recorder, toy_eps, ermongroup, spacing, steps, eta):
    toy, run = golden("toy_samplers"), f"ddim_{spacing}{steps}_eta{eta}"
    sampler = Sampler(SamplerConfig(steps=steps, spacing=SPACINGS[spacing], eta=float(eta)), ermongroup)
    record = recorder(toy_eps, lambda k: toy.normal(f"toy/{run}/noise{k}", (2, 3, 4, 4)))
    states = list(sampler.sample(record, toy.tensor("xT"), record.noise))
    assert_run_equals(toy, run, states, atol=5e-6)
    assert tuple(record.timesteps) == sampler.eval_timesteps


@pytest.mark.parametrize("family", ["ldm", "churches", "sd"])
@pytest.mark.parametrize(("eta", "scale"), [("0", "1"), ("0", "3"), ("1", "1.5")])
@pytest.mark.parametrize("steps", [10, 20, 50, 200, 250])
def test_compvis_with_a_closed_form_eps(golden, recorder, toy_eps, compvis, family, eta, scale, steps):
    toy, run = golden("toy_samplers"), f"{family}_ddim{steps}_eta{eta}_cfg{scale}"
    config = SamplerConfig(steps=steps, offset=1, final="first", eta=float(eta))
    sampler = Sampler(config, compvis(*toy.config["schedules"][family]))
    denoiser = guide(toy_eps, toy.tensor("c"), toy.tensor("uc"), float(scale))
    record = recorder(denoiser, lambda k: toy.normal(f"toy/{run}/noise{k}", (2, 3, 4, 4)))
    assert_run_equals(toy, run, list(sampler.sample(record, toy.tensor("xT"), record.noise)), atol=5e-6)


@pytest.mark.parametrize(
    ("name", "spacing", "eta", "alt"),
    [
        ("sampler_ddim_quad10_eta0", "quadratic", 0, 6.5e-5),
        ("sampler_ddim_uniform10_eta1", "uniform", 1, 1.8e-4),
    ],
)
def test_ermongroup_with_a_network(golden, recorder, network, ermongroup, name, spacing, eta, alt):
    run = golden(name)
    sampler = Sampler(SamplerConfig(steps=10, spacing=spacing, eta=eta), ermongroup)
    record = recorder(network("ddim_tiny16"), lambda k: run.tensor("noise")[k])
    states = list(sampler.sample(record, run.tensor("xT"), record.noise))
    run.check("xs", torch.stack([step.x for step in states]), atol=4 * alt)
    run.check("x0_last", states[-1].x0, atol=4 * alt)
    run.check("out", states[-1].x, atol=4 * alt)
    assert record.timesteps == run["model_timesteps"].tolist()


@pytest.mark.parametrize(("eta", "alt"), [(0, 3.1e-4), (1, 5.6e-4)])
def test_compvis_with_a_guided_network(golden, recorder, network, compvis, eta, alt):
    run = golden(f"sampler_ldm_ddim10_eta{eta}_cfg3")
    sampler = Sampler(SamplerConfig(steps=10, offset=1, final="first", eta=eta), compvis(0.0015, 0.0195))
    record = recorder(network("ldm_tiny_class"), lambda k: run.tensor("noise")[k])
    denoiser = guide(record, run.tensor("cond"), run.tensor("uncond"), 3.0)
    states = list(sampler.sample(denoiser, run.tensor("xT"), record.noise))
    run.check("x_after_1", states[0].x, atol=1e-4)  # before the chain amplifies rounding
    run.check("xs", torch.stack([step.x for step in states]), atol=4 * alt)
    run.check("pred_x0s", torch.stack([step.x0 for step in states]), atol=4 * alt)
    run.check("out", states[-1].x, atol=4 * alt)
    assert record.timesteps == run["model_timesteps"].tolist()
    assert record.batches == run["model_batch"].tolist()


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("final", ["one", "first"])
@pytest.mark.parametrize("clip", [False, True])
def test_equals_diffusers(recorder, toy_eps, x_t, draws, eta, final, clip):
    scheduler = diffusers.DDIMScheduler(
        steps_offset=1, set_alpha_to_one=final == "one", clip_sample=clip, timestep_spacing="leading"
    )
    scheduler.set_timesteps(20)
    x, expected = x_t, []
    for k, t in enumerate(scheduler.timesteps):
        # use_clipped_model_output: eps follows the clipped x_0, as in guided-diffusion.
        step = scheduler.step(
            toy_eps(x, t.expand(2)), t, x, eta=eta, variance_noise=draws(k) if eta else None,
            use_clipped_model_output=clip,
        )  # fmt: skip
        x = step.prev_sample
        expected.append((x, step.pred_original_sample))

    config = SamplerConfig(steps=20, spacing="leading", offset=1, final=final, eta=eta, clip=clip)
    sampler = Sampler(config, DiffusionConfig(precision="float32"))
    record = recorder(toy_eps, draws)
    states = list(sampler.sample(record, x_t, record.noise))
    assert record.timesteps == scheduler.timesteps.tolist()
    for state, (x, x0) in zip(states, expected, strict=True):
        torch.testing.assert_close(state.x, x, rtol=0, atol=5e-6 * float(x.abs().max()))
        torch.testing.assert_close(state.x0, x0, rtol=0, atol=5e-6 * float(x0.abs().max()))


def test_a_repeated_timestep_leaves_x_as_it_is_at_eta_0(recorder, toy_eps, x_t):
    sampler = Sampler(SamplerConfig(steps=100, spacing="quadratic"), DiffusionConfig())
    record = recorder(toy_eps)
    before, repeats = x_t, 0
    for i, step in enumerate(sampler.sample(record, x_t, record.noise)):
        if sampler.table.alphas_cumprod_next[i] == sampler.table.alphas_cumprod[i]:
            repeats += 1
            torch.testing.assert_close(step.x, before, rtol=1e-6, atol=1e-6)
        before = step.x
    assert repeats == 4
    assert len(record.timesteps) == 100


def test_a_repeated_timestep_draws_no_noise(toy_eps, x_t):
    """…so that the draws of the other steps do not depend on the repeats."""
    count = itertools.count()
    table = timetable(DiffusionConfig(), "quadratic", 100)
    list(ddim(toy_eps, x_t, table, lambda: next(count) * torch.zeros(()), eta=1.0))
    assert next(count) == 100 - 4 - 1  # nor does the last step, which leads to x_0


def test_the_last_step_leads_to_x0_itself(toy_eps, x_t):
    *_, last = ddim(toy_eps, x_t, timetable(DiffusionConfig(), "uniform", 10), None, eta=0.0)
    assert torch.equal(last.x, last.x0)


@pytest.mark.parametrize("spacing", ["uniform", "fractional"])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_eta_1_keeps_every_coefficient_real(toy_eps, x_t, draws, schedule, spacing):
    """1 - ᾱ' - σ² is a difference that must not fall below 0 by rounding."""
    for steps in (1, 2, 3, 10, 1000):
        table = timetable(DiffusionConfig(schedule), spacing, steps)
        for _, a, a_next in table:
            sigma = ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
            assert 1 - a_next - sigma**2 >= 0
    assert all(step.x.isfinite().all() for step in ddim(toy_eps, x_t, table, lambda: draws(0), eta=1.0, clip=True))
