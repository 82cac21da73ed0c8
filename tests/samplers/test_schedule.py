"""Noise schedules against closed forms, torch, diffusers and the references' tables."""

import diffusers
import numpy as np
import pytest
import torch

from configs import InputError
from samplers import DiffusionConfig


def test_float32_is_torch_cumprod_of_float32_betas():
    config = DiffusionConfig(precision="float32")
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64).float()
    assert np.array_equal(config.alphas_cumprod(), (1 - betas).cumprod(0).double().numpy())


def test_rounded_is_float64_stored_as_float32():
    exact = DiffusionConfig().alphas_cumprod()
    assert np.array_equal(DiffusionConfig(precision="rounded").alphas_cumprod(), exact.astype(np.float32))
    assert not np.array_equal(DiffusionConfig(precision="float32").alphas_cumprod(), exact.astype(np.float32))


@pytest.mark.parametrize(
    ("config", "theirs"),
    [
        (DiffusionConfig(), {"beta_schedule": "linear"}),
        (
            DiffusionConfig("scaled_linear", 0.00085, 0.012),
            {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
        ),
        (DiffusionConfig("cosine"), {"beta_schedule": "squaredcos_cap_v2"}),
    ],
)
def test_betas_equal_diffusers(config, theirs):
    betas = diffusers.DDPMScheduler(**theirs).betas.numpy()
    assert np.allclose(config.betas(), betas, rtol=2e-6, atol=0)


def test_guided_diffusion_betas(golden):
    tables = golden("sampler_guided_respacing_tables")
    assert np.array_equal(DiffusionConfig("linear").betas().astype(np.float32), tables["linear_betas_1000"])
    assert np.array_equal(DiffusionConfig("cosine").betas().astype(np.float32), tables["cosine_betas_1000"])


def test_ermongroup_alphas_cumprod_to_the_last_bit(golden, ermongroup):
    for name in ("sampler_ddim_quad10_eta0", "sampler_ddim_uniform10_eta1"):
        run = golden(name)
        assert np.array_equal(ermongroup.alphas_cumprod()[run["seq"]], run["alpha_t_for_seq"])


@pytest.mark.parametrize("family", ["ldm", "churches", "sd"])
def test_compvis_alphas_cumprod_to_the_last_bit(golden, compvis, family):
    toy = golden("toy_samplers")
    config = compvis(*toy.config["schedules"][family])
    assert np.array_equal(config.alphas_cumprod(), toy[f"{family}_alphas_cumprod"])


def test_compvis_checkpoint_buffers(golden, compvis):
    layout = golden("ldm_statedict_layout_tiny")
    config = compvis(0.0015, 0.0195)
    assert np.array_equal(config.betas().astype(np.float32), layout["betas"])
    assert np.array_equal(config.alphas_cumprod(), layout["alphas_cumprod"])
    assert np.array_equal([1, *config.alphas_cumprod()[:-1]], layout["alphas_cumprod_prev"])


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"schedule": "liner"}, "did you mean 'linear'"),
        ({"precision": "double"}, "precision 'double' does not exist"),
        ({"num_timesteps": 0}, "at least 1"),
        ({"beta_start": 0.03}, "beta_start <= beta_end"),
        ({"beta_start": 0.0}, "0 < beta_start"),
        ({"schedule": "cosine", "beta_end": 0.01}, "the cosine schedule has no beta_start"),
        ({"beta_start": 0.9, "beta_end": 0.99}, "alphas_cumprod must stay between 0 and 1"),  # float64 underflows
        ({"beta_start": 1e-9, "precision": "float32"}, "alphas_cumprod must stay between 0 and 1"),  # ᾱ_0 rounds to 1
    ],
)
def test_impossible_schedules_are_refused(settings, sentence):
    with pytest.raises(InputError, match=sentence):
        DiffusionConfig(**settings)
