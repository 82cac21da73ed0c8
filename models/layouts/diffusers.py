"""DDPM networks in the names of diffusers' UNet2DModel (google/ddpm-*)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from configs import InputError
from models.config import UNetConfig
from models.layouts.translate import Layout, Tensors, count, levels_and_blocks


def modules(config: UNetConfig) -> dict[str, str]:
    """Their up_blocks count from the innermost level outwards."""
    names = {}
    for ours, direction, part, level, block in levels_and_blocks(config):
        their_level = level if direction == "down" else config.num_levels - 1 - level
        theirs = {"res": "resnets", "attn": "attentions", "resample": f"{direction}samplers"}[part]
        names[ours] = f"{direction}_blocks.{their_level}.{theirs}.{block}"
    return names | {
        "time_in": "time_embedding.linear_1",
        "time_out": "time_embedding.linear_2",
        "down.0.conv": "conv_in",
        "middle.res1": "mid_block.resnets.0",
        "middle.attn": "mid_block.attentions.0",
        "middle.res2": "mid_block.resnets.1",
        "norm_out": "conv_norm_out",
        "conv_out": "conv_out",
    }


COMMON = {
    "norm1": "norm1", "conv1": "conv1", "embed": "time_emb_proj", "norm2": "norm2", "conv2": "conv2",
    "shortcut": "conv_shortcut",
    "norm": "group_norm",
    "conv": "conv",
}  # fmt: skip


def infer(tensors: Tensors) -> dict[str, Any]:
    """All but what the weights do not show and config.json says: see `stated`."""
    levels = count(tensors, "down_blocks.{}.")
    channels = tensors["time_embedding.linear_1.weight"].shape[1]
    return {
        "in_channels": tensors["conv_in.weight"].shape[1],
        "out_channels": tensors["conv_out.weight"].shape[0],
        "channels": channels,
        "channel_mult": [tensors[f"down_blocks.{i}.resnets.0.conv1.weight"].shape[0] / channels for i in range(levels)],
        "num_res_blocks": count(tensors, "down_blocks.0.resnets.{}."),
        "attention_levels": [
            i for i in range(levels) if any(key.startswith(f"down_blocks.{i}.attentions.0.") for key in tensors)
        ],
    }


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says beyond the weights. Raises InputError for a network of another family."""
    expected = {
        "act_fn": "silu", "center_input_sample": False, "mid_block_scale_factor": 1,
        "time_embedding_type": "positional", "resnet_time_scale_shift": "default", "add_attention": True,
        "class_embed_type": None, "dual_cross_attention": False, "attn_norm_num_groups": None,
    }  # fmt: skip
    check_expected(config, expected)
    orders = {"sin_cos": (False, 1), "cos_sin": (True, 0)}  # flip_sin_to_cos, freq_shift
    given = (config.get("flip_sin_to_cos", True), config.get("freq_shift", 0))
    order = next((name for name, pair in orders.items() if pair == given), None)
    if order is None:
        raise InputError(f"its config.json has flip_sin_to_cos = {given[0]!r} with freq_shift = {given[1]!r}; "
                         "only False with 1 and True with 0 are supported")  # fmt: skip
    padding = config.get("downsample_padding", 1)
    if padding not in (0, 1):
        raise InputError(f"its config.json has downsample_padding = {padding!r}; only 0 and 1 are supported")
    heads = config.get("attention_head_dim", 8)  # UNet2DModel's name for the channels of one head; null is one head
    size = config.get("sample_size")
    size = size[0] if isinstance(size, list | tuple) and size else size
    return {
        "norm_eps": config.get("norm_eps", 1e-5),
        "num_groups": config.get("norm_num_groups", 32),
        "timestep_embedding": order,
        "downsample_padding": "symmetric" if padding else "asymmetric",
        "num_heads": 1 if heads is None else None,
        "head_channels": heads,
        "dropout": config.get("dropout", 0.0),
        **({} if size is None else {"resolution": size}),
    }


def check_expected(config: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises InputError where config.json says other than `expected`."""
    for key, value in expected.items():
        if config.get(key, value) != value:
            raise InputError(f"its config.json has {key} = {config[key]!r}; only {value!r} is supported")


DIFFUSERS = Layout(
    name="diffusers UNet2DModel",
    recognises=lambda tensors: "mid_block.attentions.0.to_q.weight" in tensors,
    infer=infer,
    stated=stated,
    modules=modules,
    leaves={**COMMON, "qkv": ("to_q", "to_k", "to_v"), "proj": "to_out.0"},
)

# The files on the hub are older than the renaming of the attention layers.
DIFFUSERS_OLD = replace(
    DIFFUSERS,
    name=f"{DIFFUSERS.name} (old attention names)",
    recognises=lambda tensors: "mid_block.attentions.0.query.weight" in tensors,
    leaves={**COMMON, "qkv": ("query", "key", "value"), "proj": "proj_attn"},
)
