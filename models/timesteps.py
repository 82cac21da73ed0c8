"""The embedding of timesteps."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LOG_MAX_PERIOD = 9.210340371976184  # ln(10000)


def timestep_embedding(t: Tensor, dim: int, order: str) -> Tensor:
    """Sinusoidal embedding of timesteps t (B,), integer or real -> (B, dim) float32.

    sin_cos: frequencies exp(-ln(10000)·i/(half-1)), [sin | cos] (Ho et al. 2020).
    cos_sin: frequencies exp(-ln(10000)·i/half), [cos | sin] (Dhariwal & Nichol 2021; Rombach et al. 2022).
    """
    half = dim // 2
    last = half - 1 if order == "sin_cos" else half
    # log(10000) as a Python float times a float32 ramp: the order of operations of the public code, which float32
    # rounding at t near 1000 would otherwise show.
    frequencies = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -(LOG_MAX_PERIOD / last))
    angles = t.float()[:, None] * frequencies[None, :]
    parts = (angles.sin(), angles.cos()) if order == "sin_cos" else (angles.cos(), angles.sin())
    return F.pad(torch.cat(parts, dim=1), (0, dim % 2))
