"""diffusers' networks as references, and their weights under the other code bases' names.

The renaming is the tests' own, by the tables those code bases publish; it shares nothing with models/layouts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

import torch
from diffusers import ModelMixin, UNet2DConditionModel, UNet2DModel
from torch import Tensor

DDPM_OPTIONS = {
    "norm_eps": 1e-6, "attention_head_dim": None, "downsample_padding": 0, "flip_sin_to_cos": False, "freq_shift": 1,
}  # fmt: skip
OPENAI_OPTIONS = {"norm_eps": 1e-5, "downsample_padding": 1, "flip_sin_to_cos": True, "freq_shift": 0}

PESSER = [
    ("mid_block.resnets.0", "mid.block_1"), ("mid_block.resnets.1", "mid.block_2"),
    ("mid_block.attentions.0", "mid.attn_1"), ("resnets", "block"), ("attentions", "attn"),
    ("downsamplers.0", "downsample"), ("upsamplers.0", "upsample"), ("time_embedding.linear_1", "temb.dense.0"),
    ("time_embedding.linear_2", "temb.dense.1"), ("conv_norm_out", "norm_out"), ("time_emb_proj", "temb_proj"),
    ("conv_shortcut", "nin_shortcut"), ("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"),
    ("to_out.0", "proj_out"),
]  # fmt: skip
OPENAI_ENDS = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "class_embedding": "label_emb", "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
}  # fmt: skip
OPENAI_RES = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "norm2": "out_layers.0",
    "conv2": "out_layers.3", "conv_shortcut": "skip_connection",
}  # fmt: skip


def unet(widths: list[int], attention_levels: list[int], *, resblocks: bool = False, **options: object) -> UNet2DModel:
    """A DDPM or guided-diffusion U-Net with reproducible random weights; no layer is left at 0 or 1.

    resblocks: resolutions change by residual blocks, as in guided-diffusion.
    """
    plain = ("ResnetDownsampleBlock2D", "ResnetUpsampleBlock2D") if resblocks else ("DownBlock2D", "UpBlock2D")
    if resblocks:
        options |= {"downsample_type": "resnet", "upsample_type": "resnet", "resnet_time_scale_shift": "scale_shift",
                    "attn_norm_num_groups": 32}  # fmt: skip
    blocks = _blocks(widths, attention_levels, plain, ("AttnDownBlock2D", "AttnUpBlock2D"))
    return _randomised(UNet2DModel(block_out_channels=widths, **blocks, **options))


def conditional_unet(widths: list[int], attention_levels: list[int], **options: object) -> UNet2DConditionModel:
    """A latent-diffusion U-Net with reproducible random weights."""
    attending = ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D")
    blocks = _blocks(widths, attention_levels, ("DownBlock2D", "UpBlock2D"), attending)
    return _randomised(UNet2DConditionModel(block_out_channels=widths, **blocks, **options))


def _blocks(
    widths: list[int], attention_levels: list[int], plain: tuple[str, str], attending: tuple[str, str]
) -> dict[str, list[str]]:
    kinds = [attending if level in attention_levels else plain for level in range(len(widths))]
    return {"down_block_types": [down for down, _ in kinds], "up_block_types": [up for _, up in reversed(kinds)]}


@torch.no_grad()
def _randomised(network: ModelMixin) -> ModelMixin:
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
        if "norm" in name and name.endswith("weight"):
            parameter.add_(1)
    return network.eval().requires_grad_(False)


def pesser(state: Mapping[str, Tensor], levels: int) -> dict[str, Tensor]:
    """UNet2DModel's weights as pesser/pytorch_diffusion names them; up.0 is the outermost level there."""
    renamed = {}
    for key, value in state.items():
        key = re.sub(r"^down_blocks\.", "down.", key)
        key = re.sub(r"^up_blocks\.(\d+)", lambda match: f"up.{levels - 1 - int(match[1])}", key)
        for theirs, pessers in PESSER:
            key = re.sub(rf"(^|\.){re.escape(theirs)}(?=\.)", rf"\g<1>{pessers}", key)
        is_convolution = re.search(r"attn[._\d]+\.(q|k|v|proj_out)\.weight", key)
        renamed[key] = value[:, :, None, None] if is_convolution else value
    return renamed


def old_attention_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """UNet2DModel's weights as diffusers named them when google/ddpm-* was uploaded."""
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for key, value in state.items():
        for new, name in old.items():
            key = key.replace(f".{new}.", f".{name}.")
        renamed[key] = value
    return renamed


def openai(state: Mapping[str, Tensor], blocks: int, attention_levels: list[int], heads: int) -> dict[str, Tensor]:
    """UNet2D(Condition)Model's weights as guided-diffusion and latent-diffusion name them.

    Separate q, k, v are fused, interleaved per head (the legacy order).
    """
    levels = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("down_blocks."))
    renamed = {}
    for key, value in state.items():
        module, leaf = _openai_module(key, levels, blocks, attention_levels)
        for theirs, theirs_there in OPENAI_RES.items():
            leaf = re.sub(rf"^{theirs}\.", f"{theirs_there}.", leaf)
        leaf = leaf.replace("group_norm.", "norm.")
        renamed[f"{module}.{leaf}"] = value
    for module in {key.rsplit(".to_q.", 1)[0] for key in renamed if ".1.to_q." in key}:
        for kind in ("weight", "bias"):
            parts = [renamed.pop(f"{module}.to_{name}.{kind}").unflatten(0, (heads, -1)) for name in "qkv"]
            fused = torch.stack(parts, dim=1).flatten(0, 2)
            proj = renamed.pop(f"{module}.to_out.0.{kind}")
            renamed[f"{module}.qkv.{kind}"] = fused[..., None] if kind == "weight" else fused
            renamed[f"{module}.proj_out.{kind}"] = proj[..., None] if kind == "weight" else proj
    return renamed


def _openai_module(key: str, levels: int, blocks: int, attention_levels: list[int]) -> tuple[str, str]:
    """Where a parameter lies there, and what is left of its name."""
    for theirs, there in OPENAI_ENDS.items():
        if key.startswith(f"{theirs}."):
            return there, key.removeprefix(f"{theirs}.")
    if match := re.match(r"mid_block\.(resnets|attentions)\.(\d)\.(.*)", key):
        return f"middle_block.{1 if match[1] == 'attentions' else 2 * int(match[2])}", match[3]
    direction, level, part, block, leaf = re.match(r"(down|up)_blocks\.(\d)\.(\w+)\.(\d)\.(.*)", key).groups()
    first = int(level) * (blocks + 1)  # their first block of the level, inside or outside
    if direction == "down" and part == "downsamplers":
        return f"input_blocks.{first + blocks + 1}.0", re.sub(r"^conv\.", "op.", leaf)
    if direction == "down":
        return f"input_blocks.{first + 1 + int(block)}.{0 if part == 'resnets' else 1}", leaf
    if part == "upsamplers":
        attends = levels - 1 - int(level) in attention_levels
        return f"output_blocks.{first + blocks}.{2 if attends else 1}", leaf
    return f"output_blocks.{first + int(block)}.{0 if part == 'resnets' else 1}", leaf
