"""Timetables: what each step goes from and to."""

import numpy as np
import pytest

from configs import InputError
from samplers import DiffusionConfig, timetable


def test_each_step_leads_to_the_next_one():
    table = timetable(DiffusionConfig(), "quadratic", 100)
    assert table.alphas_cumprod_next[:-1] == table.alphas_cumprod[1:]
    assert table.alphas_cumprod == tuple(DiffusionConfig().alphas_cumprod()[list(table.timesteps)])
    assert list(table) == list(zip(table.timesteps, table.alphas_cumprod, table.alphas_cumprod_next, strict=True))
    assert len(table) == 100


def test_entries_are_python_numbers_so_that_no_coefficient_is_rounded_or_waited_for():
    timestep, a, a_next = next(iter(timetable(DiffusionConfig(precision="float32"), "uniform", 10)))
    assert (type(timestep), type(a), type(a_next)) == (int, float, float)


def test_the_last_step_leads_to_x0_or_to_the_first_alpha():
    diffusion = DiffusionConfig()
    assert timetable(diffusion, "uniform", 10).alphas_cumprod_next[-1] == 1
    first = timetable(diffusion, "uniform", 10, offset=1, final="first")
    assert first.alphas_cumprod_next[-1] == diffusion.alphas_cumprod()[0]
    with pytest.raises(InputError, match="known: first, one"):
        timetable(diffusion, "uniform", 10, final="zero")


@pytest.mark.parametrize(
    ("name", "spacing", "eta"),
    [
        ("sampler_ldm_quad_schedule10", "quadratic", 1),
        ("sampler_ldm_ddim10_eta1_cfg3", "uniform", 1),
        ("sampler_ldm_plms10_eta0_cfg3", "uniform", 0),
    ],
)
def test_compvis_tables(golden, compvis, name, spacing, eta):
    theirs = golden(name)
    table = timetable(compvis(0.0015, 0.0195), spacing, 10, offset=1, final="first")
    timesteps, a, a_next = (np.array(column)[::-1] for column in zip(*table, strict=True))
    assert timesteps.tolist() == theirs["ddim_timesteps"].tolist()
    assert np.array_equal(a, theirs["ddim_alphas"])
    assert np.array_equal(a_next, theirs["ddim_alphas_prev"])
    sigma = eta * np.sqrt((1 - a_next) / (1 - a) * (1 - a / a_next))
    assert np.allclose(sigma, theirs["ddim_sigmas"], rtol=1e-4, atol=0)  # theirs are partly computed in float32


@pytest.mark.parametrize(
    "name",
    [
        "sampler_guided_tiny_neworder_cond_learned_range_p_10",
        "sampler_guided_tiny_plain_eps_fixed_large_p_10",
    ],
)
def test_pairs_of_alphas_are_the_respaced_betas_of_guided_diffusion(golden, name):
    theirs = golden(name)
    table = timetable(DiffusionConfig(), "fractional", 10)
    timesteps, a, a_next = (np.array(column)[::-1] for column in zip(*table, strict=True))
    assert timesteps.tolist() == theirs["timestep_map"].tolist()
    betas = 1 - a / a_next
    assert np.allclose(betas, theirs["betas"], rtol=1e-12, atol=0)
    # Of the posterior's log-variances the first is never used: that step adds no noise.
    log_variance = np.log(betas[1:] * (1 - a_next[1:]) / (1 - a[1:]))
    assert np.allclose(log_variance, theirs["posterior_log_variance_clipped"][1:], rtol=1e-12, atol=0)
