"""Cached, guided sampling in latent diffusion equals the released code."""

import torch

import models
from caching import CachedDenoiser, Reuse, Uniform
from samplers import DiffusionConfig, Sampler, SamplerConfig, guide

# The golden's network is made as CompVis' class-conditional one, in small.
TINY = models.UNetConfig(
    resolution=16, channels=32, channel_mult=[1, 2], attention_levels=[0, 1], num_heads=1, context_dim=24,
    timestep_embedding="cos_sin", norm_eps=1e-5, downsample_padding="symmetric",
)  # fmt: skip


def no_noise() -> torch.Tensor:
    raise AssertionError("DDIM at eta 0 draws no noise")


@torch.no_grad()
def test_cached_guided_ddim_equals_the_released_latent_diffusion_code(golden, tmp_path):
    run, weights = golden("sampler_deepcache_ldm_ddim20_N5_cfg1.5"), golden("ldm_tiny_class")
    torch.save(weights.state_dict(), tmp_path / "model.ckpt")
    settings = run.config
    diffusion = DiffusionConfig("scaled_linear", settings["linear_start"], settings["linear_end"], precision="rounded")
    sampler = Sampler(SamplerConfig(steps=settings["S"], offset=1, final="first"), diffusion)

    # The released code caches what enters its last output block (`replicate_layer = 0`): branch 0.
    cached = CachedDenoiser(
        models.load(tmp_path / "model.ckpt", TINY), Uniform(settings["interval"], branch=0), Reuse()
    )
    cached.begin(sampler.num_evals)
    denoiser = guide(cached, run.tensor("cond"), run.tensor("uncond"), settings["cfg_scale"])
    *_, last = sampler.sample(denoiser, run.tensor("xT"), no_noise)
    assert [depth is None for depth in cached.trace] == run["full_step"].tolist()
    run.check("out", last.x, atol=4 * 3.5e-4)
