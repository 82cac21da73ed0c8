"""Whole diffusers pipelines around tiny networks with reproducible random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from clip_files import tiny_text, write_tokenizer
from diffusers import (
    DDIMScheduler,
    PNDMScheduler,
    SchedulerMixin,
    StableDiffusionPipeline,
    UNet2DConditionModel,
    UNet2DModel,
)
from latent_files import reference
from public_names import DDPM_OPTIONS, OPENAI_OPTIONS, conditional_unet, unet
from transformers import CLIPTokenizer

import models
from models.conditioning import TextConfig
from samplers import DiffusionConfig, SamplerConfig

TEXT = TextConfig(vocab_size=516, dim=32, layers=1, heads=4, mlp_dim=64, length=10)
PROMPT = "a cat"

# Stable Diffusion v1's, in diffusers' words and in ours.
SD_SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
SD_DIFFUSION = DiffusionConfig("scaled_linear", 0.00085, 0.012, precision="float32")


def scheduler(name: str) -> SchedulerMixin:
    """Stable Diffusion's own scheduler ("plms", diffusers' PNDM), or its DDIM ("ddim")."""
    if name == "plms":
        return PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, **SD_SCHEDULE)
    return DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **SD_SCHEDULE)


def sampler_config(name: str, steps: int) -> SamplerConfig:
    """What `scheduler(name)` is among our samplers."""
    return SamplerConfig(name=name, steps=steps, spacing="leading", offset=1, final="first")


def stable_diffusion(folder: Path, name: str = "plms") -> StableDiffusionPipeline:
    """Stable Diffusion v1 in small: four levels, hence branches 0 to 11, and images of 16x16.

    In double precision: a random network under guidance can amplify rounding a thousandfold in one step.
    """
    network = conditional_unet(
        [32, 32, 64, 64], [0, 1, 2], in_channels=4, out_channels=4, sample_size=8, layers_per_block=2,
        cross_attention_dim=TEXT.dim, attention_head_dim=4, **OPENAI_OPTIONS,
    )  # fmt: skip
    words = write_tokenizer(folder / "tokenizer")
    pipe = StableDiffusionPipeline(
        unet=network, vae=reference(vq=False).first_stage, text_encoder=tiny_text(TEXT), scheduler=scheduler(name),
        tokenizer=CLIPTokenizer(str(words / "vocab.json"), str(words / "merges.txt"), model_max_length=TEXT.length),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe.to(torch.float64)


def ddpm_unet() -> UNet2DModel:
    """A DDPM network with branches 0 to 5."""
    return unet([32, 64], [1], sample_size=16, **DDPM_OPTIONS)


def ours(network: UNet2DModel | UNet2DConditionModel, folder: Path) -> models.UNet:
    """The same weights in the same precision, read by `models.load` from the folder that diffusers writes."""
    network.save_pretrained(folder / "unet")
    return models.load(folder, dtype=network.dtype)
