"""Attention for one tile of queries after the other, by oneDNN's products."""

from __future__ import annotations

import torch
from torch import Tensor

from models import processor
from models.onednn import multiply

TILE = 256  # queries: their weights over a few thousand keys stay in a core's cache


def pays(k: Tensor) -> bool:
    """Is it sooner than scaled_dot_product_attention, which multiplies by MKL? k (B, heads, M, d).

    Measured on a Zen 5 core: by 10-80% from 256 keys on in heads wider than 32, and from 1024 on in heads of 32. On
    Intel's processors, which MKL is made for, it takes twice as long, and 30-90% longer on one of AMD's with AVX2
    alone, where MKL is no slower than oneDNN.
    """
    keys, width = k.shape[-2:]
    return processor.is_amd() and processor.has_avx512() and keys >= 256 and keys * width > 256 * 32


def attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v: q (B, heads, L, d), k and v (B, heads, M, d) -> (B, heads, L, d)."""
    batch, heads, length, width = q.shape
    q = torch.mul(q, width**-0.5, out=q.new_empty(q.shape))
    k, v = k.contiguous(), v.transpose(-1, -2).contiguous()
    out = q.new_empty(batch, length, heads, width).transpose(1, 2)
    for image in range(batch):
        for head in range(heads):
            for some in (slice(start, start + TILE) for start in range(0, length, TILE)):
                weights = multiply(q[image, head, some], k[image, head]).softmax(dim=-1)
                out[image, head, some] = multiply(weights, v[image, head])
    return out
