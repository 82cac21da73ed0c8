"""U-Nets in the names of OpenAI's guided-diffusion, which CompVis' latent-diffusion and Stable Diffusion share."""

from __future__ import annotations

from typing import Any

from models.config import UNetConfig
from models.layouts.transformer import TRANSFORMER_LEAVES, transformer_modules
from models.layouts.translate import Layout, Tensors, count


def modules(config: UNetConfig) -> dict[str, str]:
    """input_blocks.i is our down[i]; output_blocks count from the innermost branch outwards."""
    names = {}
    for index in range(config.num_branches):
        level, block, _, _ = config.branch(index)
        down, up = f"input_blocks.{index}", f"output_blocks.{config.num_branches - 1 - index}"
        names[f"down.{index}.res"] = f"{down}.0"
        names[f"down.{index}.attn"] = f"{down}.1"
        names[f"up.{index}.res"] = f"{up}.0"
        names[f"up.{index}.attn"] = f"{up}.1"
        if block == 0 and level:
            position = 2 if level in config.attention_levels else 1
            names[f"down.{index}.resample"] = f"{down}.0"
            names[f"down.{index}.resample.conv"] = f"{down}.0.op"
            names[f"up.{index}.resample"] = f"{up}.{position}"
    names["middle.attn"] = "middle_block.1"
    attention = {ours: theirs for ours, theirs in names.items() if ours.endswith(".attn")}
    return names | transformer_modules(config, attention) | {
        "time_in": "time_embed.0",
        "time_out": "time_embed.2",
        "label": "label_emb",
        "down.0.conv": "input_blocks.0.0",
        "middle.res1": "middle_block.0",
        "middle.res2": "middle_block.2",
        "norm_out": "out.0",
        "conv_out": "out.2",
    }  # fmt: skip


def infer(tensors: Tensors) -> dict[str, Any]:
    """All but resolution, heads and (for fused qkv) the attention order, which the weights do not show."""
    channels = tensors["time_embed.0.weight"].shape[1]
    num_branches = count(tensors, "input_blocks.{}.")
    # A level starts behind every downsampling: a lone convolution, or a residual block that keeps its width and is
    # followed by no attention. The up path is unambiguous: an upsampling ends each level but the outermost.
    ends = [i for i in range(num_branches) if _upsamples(tensors, i)]
    blocks = num_branches // (len(ends) + 1) - 1
    levels = len(ends) + 1
    first = [1 + level * (blocks + 1) for level in range(levels)]  # input block of each level's first residual block
    context = [key for key in tensors if key.endswith("attn2.to_k.weight")]
    return {
        "in_channels": tensors["input_blocks.0.0.weight"].shape[1],
        "out_channels": tensors["out.2.weight"].shape[0],
        "channels": channels,
        "channel_mult": [tensors[f"input_blocks.{i}.0.out_layers.3.weight"].shape[0] / channels for i in first],
        "num_res_blocks": blocks,
        "attention_levels": [
            level for level, i in enumerate(first) if any(key.startswith(f"input_blocks.{i}.1.") for key in tensors)
        ],
        "context_dim": tensors[context[0]].shape[1] if context else None,
        "transformer_depth": max(1, count(tensors, "middle_block.1.transformer_blocks.{}.")),
        "num_classes": tensors["label_emb.weight"].shape[0] if "label_emb.weight" in tensors else None,
        "timestep_embedding": "cos_sin",
        "norm_eps": 1e-5,
        "num_groups": 32,
        "downsample_padding": "symmetric",
        "resample": "conv" if any(".op." in key for key in tensors) or levels == 1 else "resblock",
        "scale_shift_norm": tensors["middle_block.0.emb_layers.1.weight"].shape[0]
        == 2 * tensors["middle_block.0.out_layers.3.weight"].shape[0],
    }


def _upsamples(tensors: Tensors, index: int) -> bool:
    """Does output block `index` end in an upsampling?"""
    after = [f"output_blocks.{index}.{position}." for position in (1, 2)]
    return any(f"{start}conv.weight" in tensors or f"{start}in_layers.0.weight" in tensors for start in after)


OPENAI = Layout(
    name="latent-diffusion or guided-diffusion",
    recognises=lambda tensors: "input_blocks.0.0.weight" in tensors,
    infer=infer,
    modules=modules,
    leaves={
        "norm1": "in_layers.0", "conv1": "in_layers.2", "embed": "emb_layers.1", "norm2": "out_layers.0",
        "conv2": "out_layers.3", "shortcut": "skip_connection",
        **TRANSFORMER_LEAVES, "qkv": "qkv", "proj": "proj_out",
        "conv": "conv",
    },
    fused_qkv=True,
)  # fmt: skip
