"""What samplers, networks and noise sources agree on."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from configs import InputError
from samplers.timetable import Timetable

# eps = denoiser(x, t): x (B, C, H, W), t (B,) int64 timesteps -> eps (B, C, H, W), or (B, 2C, H, W) from a network
# that has learned the variance beside it (see `split_output`).
Denoiser = Callable[[Tensor, Tensor], Tensor]

# eps = denoiser(x, t, cond): cond (B,) int64 class labels, (B, L, D) cross-attention context, or None
ConditionalDenoiser = Callable[[Tensor, Tensor, Tensor | None], Tensor]

# The next standard normal draw, shaped as x. Samplers draw only where they add noise.
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


def split_output(output: Tensor, x: Tensor) -> tuple[Tensor, Tensor | None]:
    """What a network returns for x (B, C, H, W) -> eps (B, C, H, W), and v of the same shape where its output has 2C
    channels: the learned variance of Nichol & Dhariwal 2021 and guided-diffusion. Else v is None.

    Raises InputError for any other number of channels.
    """
    channels = x.shape[1]
    if output.shape[1] == channels:
        return output, None
    if output.shape[1] == 2 * channels:
        return output[:, :channels], output[:, channels:]
    raise InputError(
        f"the network returns {output.shape[1]} channels for an x of {channels}, where a sampler needs {channels} "
        f"(eps) or {2 * channels} (eps and a learned variance)"
    )


def eps_only(denoiser: Denoiser) -> Denoiser:
    """The denoiser without its learned variance, if it has one, for update rules that have no use for it."""
    return lambda x, t: split_output(denoiser(x, t), x)[0]
