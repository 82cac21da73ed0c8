"""DPM-Solver++ 2M: second order, multistep, on x_0 (Lu et al. 2022, "DPM-Solver++", algorithm 2)."""

from __future__ import annotations

import math
from collections.abc import Iterator

from torch import Tensor

from samplers.contract import Denoiser, Step, batch_timesteps, predict_x0
from samplers.timetable import Timetable


def dpmpp_2m(denoiser: Denoiser, x: Tensor, table: Timetable, *, clip: bool = False) -> Iterator[Step]:
    """Yields the state after each step: the linear ODE in x is solved exactly, x_0 extrapolated linearly in λ.

    clip: x_0 is clipped to [-1, 1].
    One network evaluation per step. The order is 1, which is DDIM at eta 0, at the first step and where x_0 itself is
    reached, and 2 everywhere else, as in the paper.
    """
    previous: tuple[Tensor, float] | None = None  # x_0 of the step before, and how far that step went in λ
    for t, (timestep, a, a_next) in zip(batch_timesteps(table, x), table, strict=True):
        x0 = predict_x0(x, denoiser(x, t), a)
        if clip:
            x0 = x0.clamp(-1, 1)
        # A repeated timestep (h = 0) leaves x as it is, and no distance to extrapolate over: the next step does so
        # from this newest x_0 and the last one at another λ.
        if (h := half_log_snr(a_next) - half_log_snr(a)) > 0:
            d = x0 if previous is None else extrapolate(x0, *previous, h)
            # x' = σ'/σ x - α' (exp(-h) - 1) D   with α = sqrt(ᾱ), σ = sqrt(1 - ᾱ)
            x = ((1 - a_next) / (1 - a)) ** 0.5 * x - a_next**0.5 * math.expm1(-h) * d
            previous = x0, h
        yield Step(timestep, x, x0)


def extrapolate(x0: Tensor, x0_previous: Tensor, h_previous: float, h: float) -> Tensor:
    """D = (1 + 1/2r) x_0 - 1/2r x_0_previous with r = h_previous / h (algorithm 2): x_0 in the middle of the step.

    The step to ᾱ' = 1 has no middle (h = ∞), and its limit at order 1 is x' = x_0. Every finite step is of order 2:
    one of order 1 below 15 steps only (lower_order_final of diffusers) would make two solvers of one name, for the
    sake of last steps much longer than those before. Ours to ᾱ_0 begin at timestep `offset` and are short.
    """
    if h == math.inf:
        return x0
    weight = h / (2 * h_previous)  # 1/2r
    return (1 + weight) * x0 - weight * x0_previous


def half_log_snr(alpha_cumprod: float) -> float:
    """λ = ln(α/σ) = ½ ln(ᾱ / (1 - ᾱ)); infinite at x_0 itself, where ᾱ is 1."""
    return math.inf if alpha_cumprod == 1 else math.log(alpha_cumprod / (1 - alpha_cumprod)) / 2
