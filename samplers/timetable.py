"""Timetables: the timesteps that a sampler visits, and the signal left at each."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from configs import one_of
from samplers.schedule import DiffusionConfig
from samplers.spacing import space


@dataclass(frozen=True)
class Timetable:
    """The timesteps of a sampling run, noisiest first, each with ᾱ where it starts and where it leads.

    All three have one entry per step. The values are Python floats: they enter the update rules as float64
    coefficients and cost the device no synchronisation. Pairs of ᾱ are all that respacing takes; see `betas`.
    """

    timesteps: tuple[int, ...]
    alphas_cumprod: tuple[float, ...]
    alphas_cumprod_next: tuple[float, ...]  # ᾱ at the following timestep; after the last one see `timetable`
    float32: bool = False  # are `betas` computed in float32, as ermongroup/ddim and diffusers do?

    @property
    def betas(self) -> tuple[float, ...]:
        """β = 1 - ᾱ/ᾱ' of every step, between the visited timesteps (Nichol & Dhariwal 2021, section 4). Where ᾱ hardly
        changes float32 has few digits for it: 3 or 4 where it is 1e-4."""
        number = np.float32 if self.float32 else np.float64
        here, after = (np.array(values, number) for values in (self.alphas_cumprod, self.alphas_cumprod_next))
        return tuple((1 - here / after).tolist())

    def __len__(self) -> int:
        return len(self.timesteps)

    def __iter__(self) -> Iterator[tuple[int, float, float]]:
        """(timestep, ᾱ, ᾱ at the next timestep) of each step."""
        return zip(self.timesteps, self.alphas_cumprod, self.alphas_cumprod_next, strict=True)


def timetable(diffusion: DiffusionConfig, spacing: str, steps: int, offset: int = 0, final: str = "one") -> Timetable:
    """Lays `steps` timesteps over the training timesteps of `diffusion`.

    spacing, offset: which timesteps (see `space`).
    final: ᾱ after the last step: "one" (x_0 itself; ermongroup, guided-diffusion) or "first" (ᾱ_0; CompVis).
    Raises InputError where the spacing does not exist, or not for this number of steps and offset.
    """
    one_of(final, FINALS, "the final alphas_cumprod")
    alphas_cumprod = diffusion.alphas_cumprod()
    ascending = space(spacing, steps, diffusion.num_timesteps, offset)
    here = alphas_cumprod[ascending]
    after = np.concatenate([[1.0 if final == "one" else alphas_cumprod[0]], here[:-1]])
    columns = (tuple(values[::-1].tolist()) for values in (ascending, here, after))
    return Timetable(*columns, float32=diffusion.precision == "float32")


FINALS = ("one", "first")
