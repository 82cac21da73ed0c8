"""U-Nets with cross-attention in the names of diffusers' UNet2DConditionModel (Stable Diffusion folders)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from configs import InputError
from models.config import UNetConfig
from models.layouts import diffusers
from models.layouts.transformer import TRANSFORMER_LEAVES, transformer_modules
from models.layouts.translate import Layout, Tensors, count


def modules(config: UNetConfig) -> dict[str, str]:
    names = diffusers.modules(config)
    attention = {ours: theirs for ours, theirs in names.items() if ours.endswith(".attn")}
    return names | transformer_modules(config, attention)


def infer(tensors: Tensors) -> dict[str, Any]:
    """All but what the weights do not show and config.json says: see `stated`."""
    blocks = "mid_block.attentions.0.transformer_blocks"
    return diffusers.infer(tensors) | {
        "context_dim": tensors[f"{blocks}.0.attn2.to_k.weight"].shape[1],
        "transformer_depth": count(tensors, blocks + ".{}."),
    }


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says beyond the weights. Raises InputError for a network of another family."""
    expected = {
        "encoder_hid_dim": None, "addition_embed_type": None, "time_cond_proj_dim": None, "num_class_embeds": None,
        "only_cross_attention": False, "attention_type": "default", "cross_attention_norm": None,
        "resnet_skip_time_act": False, "resnet_out_scale_factor": 1, "conv_in_kernel": 3, "conv_out_kernel": 3,
        "mid_block_type": "UNetMidBlock2DCrossAttn", "time_embedding_act_fn": None, "timestep_post_act": None,
    }  # fmt: skip
    diffusers.check_expected(config, expected)
    # Here attention_head_dim is the number of heads: the name is a mistake that old files keep alive.
    heads = config.get("num_attention_heads") or config.get("attention_head_dim", 8)
    if not isinstance(heads, int):
        raise InputError(f"its config.json has attention_head_dim = {heads!r}; only one number of heads for all levels "
                         "is supported")  # fmt: skip
    return diffusers.stated(config) | {"num_heads": heads, "head_channels": None}


DIFFUSERS_CONDITIONAL = Layout(
    name="diffusers UNet2DConditionModel",
    recognises=lambda tensors: "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight" in tensors,
    infer=infer,
    stated=stated,
    modules=modules,
    leaves=diffusers.COMMON | TRANSFORMER_LEAVES,
)
