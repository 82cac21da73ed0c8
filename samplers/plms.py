"""PLMS, the pseudo linear multistep method (Liu et al. 2022, PNDM), as in CompVis and Stable Diffusion."""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

from samplers.contract import Denoiser, Step, batch_timesteps, predict_x0
from samplers.timetable import Timetable


def plms(denoiser: Denoiser, x: Tensor, table: Timetable) -> Iterator[Step]:
    """Yields the state after each step: Adams-Bashforth on eps, DDIM (eta 0) on x.

    The first step is a second-order warm-up, so S steps make S + 1 network evaluations, the second timestep twice:
    981, 961, 961, 941, … for 50 steps at offset 1.
    """
    timesteps = batch_timesteps(table, x)
    history: list[Tensor] = []  # eps of earlier steps, newest first
    for i, (timestep, a, a_next) in enumerate(table):
        eps = denoiser(x, timesteps[i])
        if not history:
            following = timesteps[min(i + 1, len(table) - 1)]
            ahead = denoiser(transfer(x, eps, a, a_next), following)
            slope = (eps + ahead) / 2
        else:
            slope = adams_bashforth([eps, *history])
        history = [eps, *history][:3]
        x, x0 = transfer(x, slope, a, a_next), predict_x0(x, slope, a)
        yield Step(timestep, x, x0)


def adams_bashforth(eps: list[Tensor]) -> Tensor:
    """The linear multistep combination of eps (newest first) of order len(eps), 2 to 4 (Liu et al. 2022, eq. 9)."""
    weights = ADAMS_BASHFORTH[len(eps)]
    return sum(w * e for w, e in zip(weights[1:], eps[1:], strict=True)) + weights[0] * eps[0]


def transfer(x: Tensor, eps: Tensor, a: float, a_next: float) -> Tensor:
    """x from ᾱ to ᾱ' along eps: the DDIM step at eta 0 (Song et al. 2021, eq. 13)."""
    return a_next**0.5 * predict_x0(x, eps, a) + (1 - a_next) ** 0.5 * eps


ADAMS_BASHFORTH = {
    2: (3 / 2, -1 / 2),
    3: (23 / 12, -16 / 12, 5 / 12),
    4: (55 / 24, -59 / 24, 37 / 24, -9 / 24),
}
