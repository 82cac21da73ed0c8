"""First stages in the names of CompVis (latent-diffusion, taming-transformers, Stable Diffusion) and of diffusers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from models.autoencoder import Place, decoder_places, encoder_places
from models.config import FirstStageConfig
from models.layouts.ddpm import LEAVES
from models.layouts.diffusers import COMMON, check_expected
from models.layouts.translate import Layout, Tensors

# (encoder or decoder, place, res | attn | resample, number of levels) -> their module below it
Name = Callable[[str, Place, str, int], str]


def compvis_name(coder: str, place: Place, ours: str, num_levels: int) -> str:
    """up.0 is their outermost level."""
    if place.part == "middle":
        return f"mid.block_{place.block + 1}" if ours == "res" else "mid.attn_1"
    level = f"{'down' if coder == 'encoder' else 'up'}.{place.level}"
    if ours == "resample":
        return f"{level}.{place.part}sample"
    return f"{level}.{'block' if ours == 'res' else 'attn'}.{place.block}"


def diffusers_name(coder: str, place: Place, ours: str, num_levels: int) -> str:
    """up_blocks count from the innermost level outwards."""
    part = {"res": "resnets", "attn": "attentions"}.get(ours)
    if place.part == "middle":
        return f"mid_block.{part}.{place.block}"
    level = f"down_blocks.{place.level}" if coder == "encoder" else f"up_blocks.{num_levels - 1 - place.level}"
    return f"{level}.{place.part}samplers.0" if ours == "resample" else f"{level}.{part}.{place.block}"


def modules(config: FirstStageConfig, name: Name, norm_out: str) -> dict[str, str]:
    names = {"conv_moments": "quant_conv", "conv_latent": "post_quant_conv", "codebook": "quantize.embedding"}
    for coder, places in (("encoder", encoder_places(config)), ("decoder", decoder_places(config))):
        names |= {f"{coder}.{end}": f"{coder}.{end}" for end in ("conv_in", "conv_out")}
        names[f"{coder}.norm_out"] = f"{coder}.{norm_out}"
        for index, place in enumerate(places):
            for ours in ("resample",) if place.part in ("down", "up") else ("res", "attn"):
                names[f"{coder}.stages.{index}.{ours}"] = f"{coder}.{name(coder, place, ours, config.num_levels)}"
    return names


def infer(tensors: Tensors, name: Name) -> dict[str, Any]:
    """All of FirstStageConfig but scale_factor."""

    def module(ours: str, part: str, level: int, block: int) -> str:
        return f"encoder.{name('encoder', Place(part, level, block, 0, 0), ours, 0)}"

    def holds(*place: Any) -> bool:
        return any(key.startswith(f"{module(*place)}.") for key in tensors)

    levels = next(level for level in itertools.count() if not holds("res", "block", level, 0))
    channels = len(tensors["encoder.conv_in.bias"])
    widths = [len(tensors[f"{module('res', 'block', level, 0)}.conv1.bias"]) for level in range(levels)]
    codebook = tensors.get("quantize.embedding.weight")
    return {
        "channel_mult": [width // channels for width in widths],
        "latent_channels": tensors["post_quant_conv.weight"].shape[1],
        "codebook_size": None if codebook is None else len(codebook),
        "channels": channels,
        "num_res_blocks": next(block for block in itertools.count() if not holds("res", "block", 0, block)),
        "attention_levels": [level for level in range(levels) if holds("attn", "block", level, 0)],
        "middle_attention": holds("attn", "middle", levels - 1, 0),
        "image_channels": tensors["encoder.conv_in.weight"].shape[1],
    }


def stated(config: Mapping[str, Any]) -> dict[str, Any]:
    """What config.json says beyond the weights. Raises InputError for an autoencoder of another family.

    Where it does not state the scaling factor, that is 0.18215 for an AutoencoderKL, as its class says, but 1 for a
    VQModel: the published VQ latents are not scaled (Rombach et al. 2022), and their config.json is silent.
    """
    expected = {
        "act_fn": "silu", "norm_num_groups": 32, "norm_type": "group", "shift_factor": None, "latents_mean": None,
        "latents_std": None, "use_quant_conv": True, "use_post_quant_conv": True,
    }  # fmt: skip
    check_expected(config, expected)
    default = 1.0 if "num_vq_embeddings" in config else 0.18215
    return {"scale_factor": config.get("scaling_factor", default)}


COMPVIS = Layout(
    name="CompVis first stage",
    recognises=lambda tensors: "encoder.mid.block_1.conv1.weight" in tensors,
    infer=partial(infer, name=compvis_name),
    modules=partial(modules, name=compvis_name, norm_out="norm_out"),
    leaves=LEAVES,
)

DIFFUSERS_AUTOENCODER = Layout(
    name="diffusers AutoencoderKL or VQModel",
    recognises=lambda tensors: "encoder.mid_block.resnets.0.conv1.weight" in tensors,
    infer=partial(infer, name=diffusers_name),
    stated=stated,
    modules=partial(modules, name=diffusers_name, norm_out="conv_norm_out"),
    leaves={**COMMON, "qkv": ("to_q", "to_k", "to_v"), "proj": "to_out.0"},
)

# The files on the hub are older than the renaming of the attention layers.
DIFFUSERS_AUTOENCODER_OLD = replace(
    DIFFUSERS_AUTOENCODER,
    name=f"{DIFFUSERS_AUTOENCODER.name} (old attention names)",
    recognises=lambda tensors: "encoder.mid_block.attentions.0.query.weight" in tensors,
    leaves={**COMMON, "qkv": ("query", "key", "value"), "proj": "proj_attn"},
)

# The old attention names first: the other layout is recognised by keys that both have.
FIRST_STAGE_LAYOUTS = (COMPVIS, DIFFUSERS_AUTOENCODER_OLD, DIFFUSERS_AUTOENCODER)
