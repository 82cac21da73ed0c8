"""Whole latent diffusion models with tiny diffusers networks, in the files that CompVis and diffusers would write.

The renaming is the tests' own; it shares nothing with models/layouts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from diffusers import AutoencoderKL, ModelMixin, UNet2DConditionModel, VQModel
from public_names import OPENAI_OPTIONS, conditional_unet, openai
from torch import Tensor, nn

LEVELS, ATTENTION_LEVELS, HEADS = 2, [1], 4


@dataclass
class Reference:
    """The networks of one model, as diffusers builds them."""

    unet: UNet2DConditionModel
    first_stage: AutoencoderKL | VQModel

    def tensors(self) -> dict[str, Tensor]:
        """The U-Net and the first stage under the names of a single-file checkpoint."""
        unet = openai(self.unet.state_dict(), 2, ATTENTION_LEVELS, HEADS)
        return {f"model.diffusion_model.{key}": value for key, value in unet.items()} | {
            f"first_stage_model.{key}": value for key, value in first_stage_names(self.first_stage.state_dict()).items()
        } | {"betas": torch.zeros(1000), "alphas_cumprod": torch.ones(1000)}  # fmt: skip


def reference(*, vq: bool, context_dim: int = 24) -> Reference:
    channels = 3 if vq else 4
    unet = conditional_unet(
        [32, 64], ATTENTION_LEVELS, in_channels=channels, out_channels=channels, sample_size=8, layers_per_block=2,
        cross_attention_dim=context_dim, attention_head_dim=HEADS, **OPENAI_OPTIONS,
    )  # fmt: skip
    options = {
        "block_out_channels": [32, 64], "layers_per_block": 2, "latent_channels": channels,
        "down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2,
    }  # fmt: skip
    first_stage = VQModel(num_vq_embeddings=50, scaling_factor=1.0, **options) if vq else AutoencoderKL(**options)
    return Reference(unet, randomised(first_stage))


def randomised(network: ModelMixin) -> ModelMixin:
    """Reproducible random weights in which no layer is left at 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return network.eval().requires_grad_(False)


def first_stage_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """AutoencoderKL's and VQModel's weights as CompVis names them; up.0 is the outermost level there."""
    table = [
        (r"mid_block\.resnets\.0", "mid.block_1"), (r"mid_block\.resnets\.1", "mid.block_2"),
        (r"mid_block\.attentions\.0", "mid.attn_1"), (r"down_blocks\.", "down."),
        (r"up_blocks\.(\d)", lambda match: f"up.{LEVELS - 1 - int(match[1])}"), ("resnets", "block"),
        (r"attentions", "attn"), (r"downsamplers\.0", "downsample"), (r"upsamplers\.0", "upsample"),
        ("conv_norm_out", "norm_out"), ("conv_shortcut", "nin_shortcut"), ("group_norm", "norm"), ("to_q", "q"),
        ("to_k", "k"), ("to_v", "v"), (r"to_out\.0", "proj_out"),
    ]  # fmt: skip
    renamed = {}
    for key, value in state.items():
        for theirs, compvis in table:
            key = re.sub(theirs, compvis, key)
        is_convolution = re.search(r"attn_1\.(q|k|v|proj_out)\.weight", key)
        renamed[key] = value[:, :, None, None] if is_convolution else value
    return renamed


def with_moving_average(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The U-Net's weights become its moving average; the raw weights are all one constant."""
    prefix = "model.diffusion_model."
    unet = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    average = {
        f"model_ema.diffusion_model{key.removeprefix(prefix).replace('.', '')}": value for key, value in unet.items()
    }
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7, dtype=torch.int32)}
    return dict(tensors) | {key: torch.full_like(value, 0.01) for key, value in unet.items()} | average | counters


def randn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(5))


def storages(network: nn.Module) -> set[int]:
    return {parameter.untyped_storage().data_ptr() for parameter in network.parameters()}
