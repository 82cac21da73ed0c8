"""What samplers, networks and noise sources agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from samplers.timetable import Timetable

# eps = denoiser(x, t): x (B, C, H, W), t (B,) int64 timesteps -> eps (B, C, H, W)
Denoiser = Callable[[Tensor, Tensor], Tensor]

# The next standard normal draw, shaped as x. Samplers draw only where the noise has a weight above 0.
Noise = Callable[[], Tensor]


class Step(NamedTuple):
    """What a sampler yields after each step."""

    timestep: int  # where the step started
    x: Tensor  # the state it led to
    x0: Tensor  # the clean image that the network's prediction implies


def batch_timesteps(table: Timetable, x: Tensor) -> list[Tensor]:
    """The timesteps of `table` as tensors (B,) on x's device: one transfer before the loop, none inside."""
    timesteps = torch.tensor(table.timesteps, device=x.device)
    return [t.expand(len(x)) for t in timesteps]


def predict_x0(x: Tensor, eps: Tensor, alpha_cumprod: float) -> Tensor:
    """x_0 = (x_t - sqrt(1 - ᾱ) eps) / sqrt(ᾱ)   (Ho et al. 2020, eq. 15)."""
    return (x - (1 - alpha_cumprod) ** 0.5 * eps) / alpha_cumprod**0.5
