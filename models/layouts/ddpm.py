"""DDPM networks in the names of pesser/pytorch_diffusion (also ermongroup/ddim and DeepCache)."""

from __future__ import annotations

from typing import Any

from models.config import UNetConfig
from models.layouts.translate import Layout, Tensors, count, levels_and_blocks

LEAVES = {
    "norm1": "norm1", "conv1": "conv1", "embed": "temb_proj", "norm2": "norm2", "conv2": "conv2",
    "shortcut": "nin_shortcut",
    "norm": "norm", "qkv": ("q", "k", "v"), "proj": "proj_out",
    "conv": "conv",
}  # fmt: skip


def modules(config: UNetConfig) -> dict[str, str]:
    """up.0 is their outermost level, as it is ours."""
    names = {}
    for ours, direction, part, level, block in levels_and_blocks(config):
        theirs = {"res": f"block.{block}", "attn": f"attn.{block}", "resample": f"{direction}sample"}[part]
        names[ours] = f"{direction}.{level}.{theirs}"
    return names | {
        "time_in": "temb.dense.0",
        "time_out": "temb.dense.1",
        "down.0.conv": "conv_in",
        "middle.res1": "mid.block_1",
        "middle.attn": "mid.attn_1",
        "middle.res2": "mid.block_2",
        "norm_out": "norm_out",
        "conv_out": "conv_out",
    }


def infer(tensors: Tensors) -> dict[str, Any]:
    levels = count(tensors, "down.{}.")
    channels = tensors["temb.dense.0.weight"].shape[1]
    attention_levels = [level for level in range(levels) if f"down.{level}.attn.0.q.weight" in tensors]
    return {
        "in_channels": tensors["conv_in.weight"].shape[1],
        "out_channels": tensors["conv_out.weight"].shape[0],
        "channels": channels,
        "channel_mult": [tensors[f"down.{i}.block.0.conv1.weight"].shape[0] / channels for i in range(levels)],
        "num_res_blocks": count(tensors, "down.0.block.{}."),
        "attention_levels": attention_levels,
        **DDPM_OPTIONS,
    }


# What every network of Ho et al. has and its weights do not show.
DDPM_OPTIONS = {
    "num_heads": 1, "timestep_embedding": "sin_cos", "norm_eps": 1e-6, "num_groups": 32,
    "downsample_padding": "asymmetric",
}  # fmt: skip

PESSER = Layout(
    name="DDPM (pesser, ermongroup, DeepCache)",
    recognises=lambda tensors: "temb.dense.0.weight" in tensors,
    infer=infer,
    modules=modules,
    leaves=LEAVES,
)
