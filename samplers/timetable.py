"""Timetables: the timesteps that a sampler visits, and the signal left at each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from configs import InputError, one_of
from samplers.schedule import DiffusionConfig


@dataclass(frozen=True)
class Timetable:
    """The timesteps of a sampling run, noisiest first, each with ᾱ where it starts and where it leads.

    All three have one entry per step. The values are Python floats: they enter the update rules as float64
    coefficients and cost the device no synchronisation.
    """

    timesteps: tuple[int, ...]
    alphas_cumprod: tuple[float, ...]
    alphas_cumprod_next: tuple[float, ...]  # ᾱ at the following timestep; after the last one see `final`

    def __len__(self) -> int:
        return len(self.timesteps)

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        """(timestep, ᾱ, ᾱ at the next timestep) of each step."""
        return zip(self.timesteps, self.alphas_cumprod, self.alphas_cumprod_next, strict=True)


def timetable(diffusion: DiffusionConfig, spacing: str, steps: int, offset: int = 0, final: str = "one") -> Timetable:
    """Lays `steps` timesteps over the T training timesteps of `diffusion`.

    spacing: how timesteps are chosen (SPACINGS below). `uniform` may make more steps than asked for, as the
      released code does: 1000 timesteps at steps=59 make 63.
    offset: added to every timestep (0: Ho et al., ermongroup; 1: CompVis, Stable Diffusion).
    final: ᾱ after the last step: "one" (x_0 itself; ermongroup, guided-diffusion) or "first" (ᾱ_0; CompVis).
    Raises InputError where a timestep would fall outside the training timesteps.
    """
    one_of(spacing, SPACINGS, "the timestep spacing")
    one_of(final, ("one", "first"), "the final alphas_cumprod")
    total = diffusion.num_timesteps
    if not 1 <= steps <= total:
        raise InputError(f"the number of steps must lie in 1..{total}, not {steps}")
    ascending = SPACINGS[spacing](steps, total) + offset
    if ascending[0] < 0 or ascending[-1] >= total:
        raise InputError(
            f"{spacing} spacing of {steps} steps with offset {offset} reaches timestep {ascending[-1]}, beyond the "
            f"last training timestep {total - 1}; take another number of steps or offset 0"
        )
    alphas_cumprod = diffusion.alphas_cumprod()
    here = alphas_cumprod[ascending]
    after = np.concatenate([[1.0 if final == "one" else alphas_cumprod[0]], here[:-1]])
    return Timetable(*(tuple(values[::-1].tolist()) for values in (ascending, here, after)))


def uniform(steps: int, total: int) -> np.ndarray:
    """0, c, 2c, … below T with c = T // steps (ermongroup, CompVis)."""
    return np.arange(0, total, total // steps)


def leading(steps: int, total: int) -> np.ndarray:
    """0, c, 2c, … with c = T // steps, exactly `steps` of them (diffusers)."""
    return np.arange(steps) * (total // steps)


def quadratic(steps: int, total: int) -> np.ndarray:
    """int(linspace(0, sqrt(0.8 T), steps)²): denser near x_0 (Song et al. 2021, DDIM, appendix D.2).

    At many steps the first entries repeat; at eta 0 a repeated timestep leaves x as it is, but it is a network
    evaluation like any other.
    """
    return (np.linspace(0, np.sqrt(0.8 * total), steps) ** 2).astype(np.int64)


SPACINGS = {"uniform": uniform, "leading": leading, "quadratic": quadratic}
