"""Ancestral sampling of DDPM (Ho, Jain & Abbeel 2020), over all timesteps or a respaced subset."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from samplers.contract import Denoiser, Noise, Step, batch_timesteps, predict_x0
from samplers.timetable import Timetable

VARIANCES = ("fixedsmall", "fixedlarge")


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

    variance: fixedsmall (the posterior's, β̃) or fixedlarge (β). Respaced, β is 1 - ᾱ/ᾱ' of the visited timesteps;
    fixedlarge is then what ermongroup/ddim calls `ddpm_noisy`. clip: x_0 is clipped to [-1, 1].
    One network evaluation per step.
    """
    last = len(table) - 1
    for i, (t, (timestep, a, a_next)) in enumerate(zip(batch_timesteps(table, x), table, strict=True)):
        x0 = predict_x0(x, denoiser(x, t), a)
        if clip:
            x0 = x0.clamp(-1, 1)
        x = posterior_mean(x0, x, a, a_next)
        if i < last:
            x = x + step_variance(variance, a, a_next) ** 0.5 * noise()
        yield Step(timestep, x, x0)


def posterior_mean(x0: Tensor, x: Tensor, a: float, a_next: float) -> Tensor:
    """μ̃ = sqrt(ᾱ') β / (1 - ᾱ) x_0 + sqrt(α) (1 - ᾱ') / (1 - ᾱ) x_t, with α = ᾱ/ᾱ' (eq. 7)."""
    alpha = a / a_next
    return a_next**0.5 * (1 - alpha) / (1 - a) * x0 + alpha**0.5 * (1 - a_next) / (1 - a) * x


def step_variance(kind: str, a: float, a_next: float) -> float:
    """σ² of one step: β = 1 - α, or β̃ = β (1 - ᾱ') / (1 - ᾱ) (section 3.2), never below 1e-20."""
    beta = 1 - a / a_next
    return max(beta if kind == "fixedlarge" else beta * (1 - a_next) / (1 - a), 1e-20)
