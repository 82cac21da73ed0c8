"""DDIM (Song, Meng & Ermon 2021)."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from samplers.contract import Denoiser, Noise, Step, batch_timesteps, predict_x0
from samplers.timetable import Timetable


def ddim(
    denoiser: Denoiser, x: Tensor, table: Timetable, noise: Noise, *, eta: float = 0.0, clip: bool = False
) -> Iterator[Step]:
    """Yields the state after each step of the generalised, eta-stochastic DDIM update (eq. 12 and 16).

    eta: 0 deterministic … 1 ancestral. clip: x_0 is clipped to [-1, 1] and eps follows it (guided-diffusion).
    One network evaluation per step.
    """
    for t, (timestep, a, a_next) in zip(batch_timesteps(table, x), table, strict=True):
        eps = denoiser(x, t)
        x0 = predict_x0(x, eps, a)
        if clip:
            x0 = x0.clamp(-1, 1)
            eps = (x - a**0.5 * x0) / (1 - a) ** 0.5
        # eq. 16: σ = eta · sqrt((1 - ᾱ')/(1 - ᾱ)) · sqrt(1 - ᾱ/ᾱ')
        sigma = eta * ((1 - a_next) / (1 - a) * (1 - a / a_next)) ** 0.5
        # eq. 12: x' = sqrt(ᾱ') x_0 + sqrt(1 - ᾱ' - σ²) eps + σ z
        x = a_next**0.5 * x0 + (1 - a_next - sigma**2) ** 0.5 * eps
        if sigma > 0:
            x = x + sigma * noise()
        yield Step(timestep, x, x0)
