"""Ancestral sampling of DDPM (Ho, Jain & Abbeel 2020), over all timesteps or a respaced subset."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from configs import InputError
from samplers.contract import Denoiser, Noise, Step, batch_timesteps, predict_x0, split_output
from samplers.timetable import Timetable

VARIANCES = ("fixedsmall", "fixedlarge", "learned_range")
TINY = 1e-20  # in the place of a variance of 0, for its logarithm


def ddpm(
    denoiser: Denoiser,
    x: Tensor,
    table: Timetable,
    noise: Noise,
    *,
    variance: str = "fixedsmall",
    clip: bool = True,
) -> Iterator[Step]:
    """Yields the state after each ancestral step; the last step adds no noise.

    variance: fixedsmall (the posterior's, β̃), fixedlarge (β), or learned_range: between the two, where the network
      says so, which must then return (B, 2C, H, W). Respaced, β is 1 - ᾱ/ᾱ' of the visited timesteps; fixedlarge is
      then what ermongroup/ddim calls `ddpm_noisy`.
    clip: x_0 is clipped to [-1, 1].
    One network evaluation per step.
    """
    last = len(table) - 1
    steps = zip(batch_timesteps(table, x), table, table.betas, strict=True)
    for i, (t, (timestep, a, a_next), beta) in enumerate(steps):
        eps, v = split_output(denoiser(x, t), x)
        x0 = predict_x0(x, eps, a)
        if clip:
            x0 = x0.clamp(-1, 1)
        variances = beta, posterior_variance(a, a_next, beta)
        sigma = learned_sigma(v, *variances) if variance == "learned_range" else fixed_sigma(variance, *variances)
        x = posterior_mean(x0, x, a, a_next, beta)
        if i < last:
            x = x + sigma * noise()
        yield Step(timestep, x, x0)


def posterior_mean(x0: Tensor, x: Tensor, a: float, a_next: float, beta: float) -> Tensor:
    """μ̃ = sqrt(ᾱ') β / (1 - ᾱ) x_0 + sqrt(1 - β) (1 - ᾱ') / (1 - ᾱ) x_t (eq. 7)."""
    return a_next**0.5 * beta / (1 - a) * x0 + (1 - beta) ** 0.5 * (1 - a_next) / (1 - a) * x


def posterior_variance(a: float, a_next: float, beta: float) -> float:
    """β̃ = β (1 - ᾱ') / (1 - ᾱ): the smallest sensible σ² of one step, where β is the largest (section 3.2).

    It is 0 where the step leads to x_0. guided-diffusion puts the β̃ of the step before in its place, which no image
    depends on, since that step is the last and adds no noise.
    """
    return beta * (1 - a_next) / (1 - a)


def fixed_sigma(kind: str, beta: float, posterior: float) -> float:
    """The standard deviation of one step: sqrt(β) for fixedlarge, sqrt(β̃) for fixedsmall."""
    return (beta if kind == "fixedlarge" else posterior) ** 0.5


def learned_sigma(v: Tensor | None, beta: float, posterior: float) -> Tensor:
    """σ = exp(½ (f ln β + (1 - f) ln β̃)) with f = (v + 1)/2   (Nichol & Dhariwal 2021, eq. 15)."""
    if v is None:
        raise InputError("sampler.variance=learned_range needs a network with twice as many channels out as in; "
                         "take fixedsmall or fixedlarge")  # fmt: skip
    f = (v + 1) / 2
    return torch.exp((f * math.log(max(beta, TINY)) + (1 - f) * math.log(max(posterior, TINY))) / 2)
