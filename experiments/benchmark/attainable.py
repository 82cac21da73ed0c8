"""What this machine reaches at most: one plain convolution and one matrix product, timed with everything else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from experiments.precision import PRECISIONS


@dataclass(frozen=True)
class Peak:
    """A computation that does nothing but multiply."""

    name: str
    precision: str
    macs: int
    call: Callable[[], Tensor]


def peaks(device: torch.device, precision: str) -> list[Peak]:
    """A 3x3 convolution in channels_last, of a shape that U-Nets have inside, and a square matrix product; as large as
    a device needs to be busy."""
    dtype = PRECISIONS[precision]
    channels, side, batch, width = (512, 64, 16, 8192) if device.type == "cuda" else (256, 16, 8, 1024)

    def randn(*shape: int) -> Tensor:
        return torch.randn(shape, device=device).to(dtype)

    x = randn(batch, channels, side, side).to(memory_format=torch.channels_last)
    weight = randn(channels, channels, 3, 3).to(memory_format=torch.channels_last)
    a, b = randn(width, width), randn(width, width)
    return [
        Peak("convolution", precision, x.numel() * channels * 9, lambda: F.conv2d(x, weight, padding=1)),
        Peak("matrix product", precision, width**3, lambda: a @ b),
    ]
