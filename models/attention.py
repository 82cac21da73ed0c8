"""Attention blocks: self-attention of DDPM and guided-diffusion, spatial transformers of LDM and Stable Diffusion."""

from __future__ import annotations

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import UNetConfig


class Attend(nn.Module):
    """softmax(q kᵀ / sqrt(d)) v over heads. Without parameters; a module so that its cost can be observed."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, heads, L, d), k and v (B, heads, M, d) -> (B, heads, L, d)."""
        return F.scaled_dot_product_attention(q, k, v)


class SelfAttention(nn.Module):
    """Residual self-attention over all positions (Ho et al. 2020; Dhariwal & Nichol 2021).

    The channels of `qkv` are ordered [q | k | v], each holding its heads one after the other. Checkpoints that
    interleave them per head (the "legacy" order) are permuted when they are loaded.
    """

    def __init__(self, channels: int, heads: int, eps: float, groups: int = 32) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(groups, channels, eps)
        self.qkv = nn.Conv2d(channels, 3 * channels, 1)
        self.attend = Attend()
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W); there is no context to attend to."""
        height = x.shape[2]
        # The fused attention kernels want the last dimension dense: channels last. They fall back to two products else.
        qkv = self.qkv(self.norm(x)).contiguous(memory_format=torch.channels_last)
        q, k, v = rearrange(qkv, "b (n heads d) h w -> n b heads (h w) d", n=3, heads=self.heads)
        h = rearrange(self.attend(q, k, v), "b heads (h w) d -> b (heads d) h w", h=height)
        return x + self.proj(h)


class CrossAttention(nn.Module):
    """Attention of tokens to a context, or to themselves where there is none (Rombach et al. 2022, eq. 3)."""

    def __init__(self, channels: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(context_dim, channels, bias=False)
        self.to_v = nn.Linear(context_dim, channels, bias=False)
        self.attend = Attend()
        self.to_out = nn.Linear(channels, channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """x (B, L, C), context (B, M, D) -> (B, L, C)."""
        return self.look_up(x, *self.keys_values(x if context is None else context))

    def keys_values(self, context: Tensor) -> tuple[Tensor, Tensor]:
        """context (B, M, D) -> its keys and values (B, heads, M, d): what of it does not depend on x."""
        return self._by_head(self.to_k(context)), self._by_head(self.to_v(context))

    def look_up(self, x: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """x (B, L, C) -> what it finds in the values, (B, L, C)."""
        found = self.attend(self._by_head(self.to_q(x)), k, v)
        return self.to_out(rearrange(found, "b heads l d -> b l (heads d)"))

    def _by_head(self, tokens: Tensor) -> Tensor:
        return rearrange(tokens, "b l (heads d) -> b heads l d", heads=self.heads)


class FeedForward(nn.Module):
    """GEGLU (Shazeer 2020): value · gelu(gate), with the exact (erf) GELU."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.proj_in = nn.Linear(channels, 8 * channels)
        self.proj_out = nn.Linear(4 * channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        value, gate = self.proj_in(x).chunk(2, dim=-1)
        return self.proj_out(value * F.gelu(gate))


class TransformerBlock(nn.Module):
    """Self-attention, cross-attention and feed-forward, each residual and normalised first."""

    def __init__(self, channels: int, context_dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(channels)
        self.attn1 = CrossAttention(channels, channels, heads)
        self.norm2 = nn.LayerNorm(channels)
        self.attn2 = CrossAttention(channels, context_dim, heads)
        self.norm3 = nn.LayerNorm(channels)
        self.ff = FeedForward(channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        x = x + self.attn1(self.norm1(x))
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class SpatialTransformer(nn.Module):
    """Transformer blocks over the positions of a feature map (Rombach et al. 2022)."""

    def __init__(self, channels: int, context_dim: int, heads: int, depth: int, groups: int = 32) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        self.proj_in = nn.Conv2d(channels, channels, 1)
        self.blocks = nn.ModuleList(TransformerBlock(channels, context_dim, heads) for _ in range(depth))
        self.proj_out = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """x (B, C, H, W), context (B, M, D) -> (B, C, H, W)."""
        height = x.shape[2]
        tokens = rearrange(self.proj_in(self.norm(x)), "b c h w -> b (h w) c")
        for block in self.blocks:
            tokens = block(tokens, context)
        return x + self.proj_out(rearrange(tokens, "b (h w) c -> b c h w", h=height))


def attention(config: UNetConfig, channels: int) -> SelfAttention | SpatialTransformer:
    """The attention block that `config` asks for, `channels` wide."""
    heads = config.heads(channels)
    if config.context_dim is None:
        return SelfAttention(channels, heads, config.norm_eps, config.num_groups)
    return SpatialTransformer(channels, config.context_dim, heads, config.transformer_depth, config.num_groups)
