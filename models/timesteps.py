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
    ramp = torch.arange(half, dtype=torch.float32, device=t.device)
    # Which product comes first differs between the code bases, and shows in float32 at t near 1000.
    if order == "sin_cos":
        angles = t.float()[:, None] * torch.exp(ramp * -(LOG_MAX_PERIOD / (half - 1)))
        parts = angles.sin(), angles.cos()
    else:
        angles = t.float()[:, None] * torch.exp(-LOG_MAX_PERIOD * ramp / half)
        parts = angles.cos(), angles.sin()
    return F.pad(torch.cat(parts, dim=1), (0, dim % 2))
