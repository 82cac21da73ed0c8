"""Names inside spatial transformers, which CompVis and diffusers share."""

from __future__ import annotations

from models.config import UNetConfig

_ATTENTION = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out": "to_out.0"}

TRANSFORMER_LEAVES = {
    "norm": "norm", "proj_in": "proj_in", "proj_out": "proj_out",
    **{f"attn1.{ours}": f"attn1.{theirs}" for ours, theirs in _ATTENTION.items()},
    **{f"attn2.{ours}": f"attn2.{theirs}" for ours, theirs in _ATTENTION.items()},
    "ff.proj_in": "ff.net.0.proj", "ff.proj_out": "ff.net.2",
}  # fmt: skip


def transformer_modules(config: UNetConfig, attention: dict[str, str]) -> dict[str, str]:
    """attention: our attention blocks -> theirs. The transformer blocks in them, where `config` has any."""
    if config.context_dim is None:
        return {}
    names = {}
    for ours, theirs in attention.items():
        for k in range(config.transformer_depth):
            block = f"{theirs}.transformer_blocks.{k}"
            names[f"{ours}.blocks.{k}"] = block
            # The leaves norm1 and norm2 are the residual blocks'; a transformer block's go by their own names.
            names |= {f"{ours}.blocks.{k}.{norm}": f"{block}.{norm}" for norm in ("norm1", "norm2", "norm3")}
    return names
