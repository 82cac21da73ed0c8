"""Attention for one tile of queries after the other, by oneDNN's products."""

from __future__ import annotations

import torch
from torch import Tensor

from models import processor
from models.onednn import multiply

WEIGHTS = 2**19  # of as many keys by queries a tile has: what is made of them is used while it is near the core


def pays(q: Tensor, k: Tensor) -> bool:
    """Is it sooner than scaled_dot_product_attention, which multiplies by MKL? q (B, heads, L, d), k (B, heads, M, d).

    Measured on a Zen 5 core, for 16 to 4096 keys and heads of 32 to 512: up to 1.9 times as fast, of a prompt's 77 keys
    1.4 to 1.8 times. On Intel's processors, which MKL is made for, it takes twice as long, and 30-90% longer on one of
    AMD's with AVX2 alone, where MKL is no slower than oneDNN.
    """
    (queries, width), keys = q.shape[-2:], k.shape[-2]
    is_large = queries >= 256 and keys >= 64 and queries * keys * width > 2**21
    return processor.is_amd() and processor.has_avx512() and is_large


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v: q (B, heads, L, d), k and v (B, heads, M, d) -> (B, heads, L, d)."""
    batch, heads, length, width = q.shape
    q = torch.mul(q, width**-0.5, out=q.new_empty(q.shape))
    k, v = k.contiguous(), v.transpose(-1, -2).contiguous()
    out = q.new_empty(batch, length, heads, width).transpose(1, 2)
    tile = max(16, WEIGHTS // k.shape[2])
    tiles = [slice(start, start + tile) for start in range(0, length, tile)]
    for image in range(batch):
        for head in range(heads):
            for some in tiles:
                weights = multiply(q[image, head, some], k[image, head]).softmax(dim=-1)
                out[image, head, some] = multiply(weights, v[image, head])
    return out
