"""A sampler as configured: which update rule, over which timesteps."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

from configs import InputError, one_of
from samplers.contract import Denoiser, Noise, Step, eps_only
from samplers.ddim import ddim
from samplers.ddpm import VARIANCES, ddpm
from samplers.dpmpp import dpmpp_2m
from samplers.plms import plms
from samplers.schedule import DiffusionConfig
from samplers.spacing import check_spacing
from samplers.timetable import FINALS, Timetable, timetable


@dataclass(frozen=True)
class SamplerConfig:
    """Everything a sampling run needs to know besides the network and the noise."""

    name: str = "ddim"  # ddim | plms | dpmpp_2m | ddpm
    steps: int = 100
    spacing: str = "uniform"  # uniform | leading | strided | quadratic | fractional | a section list: "10,10,15,20"
    offset: int = 0  # added to every timestep; 1 in CompVis and Stable Diffusion
    final: str = "one"  # ᾱ after the last step: one | first
    eta: float = 0.0  # ddim only: 0 deterministic … 1 ancestral
    variance: str = "fixedsmall"  # ddpm only: fixedsmall | fixedlarge | learned_range (the network's own)
    # ddim, dpmpp_2m, ddpm: is x_0 clipped to [-1, 1] at every step? null: as in the papers, ddpm clips and the others
    # do not. The latents of LDM are no pixels: ancestral sampling there wants false.
    clip: bool | None = None

    def __post_init__(self) -> None:
        one_of(self.name, SAMPLERS, "the sampler")
        check_spacing(self.spacing, self.steps)
        one_of(self.final, FINALS, "the final alphas_cumprod")
        one_of(self.variance, VARIANCES, "the variance")
        if not 0 <= self.eta <= 1:
            raise InputError(f"eta must lie in 0..1, not {self.eta}")
        for key, value, neutral, names in (
            ("eta", self.eta, 0, ("ddim",)),
            ("variance", self.variance, "fixedsmall", ("ddpm",)),
            ("clip", self.clip, None, ("ddim", "dpmpp_2m", "ddpm")),
        ):
            if self.name not in names and value != neutral:
                unset = "null" if neutral is None else neutral
                raise InputError(f"{self.name} has no {key}; leave sampler.{key} at {unset}")

    @property
    def is_stochastic(self) -> bool:
        """Does every step add fresh noise?"""
        return self.name == "ddpm" or self.eta > 0


class Sampler:
    """A configured update rule over its timetable. Stateless: `sample` may be called any number of times."""

    def __init__(self, config: SamplerConfig, diffusion: DiffusionConfig) -> None:
        self.diffusion = diffusion
        self.config = config
        self.table: Timetable = timetable(diffusion, config.spacing, config.steps, config.offset, config.final)

    @property
    def eval_timesteps(self) -> tuple[int, ...]:
        """The timestep of every network evaluation, in order; PLMS evaluates its second timestep twice."""
        return tuple(self.table.timesteps[step] for step in self._eval_steps)

    @property
    def eval_log_snr(self) -> tuple[float, ...]:
        """ln(ᾱ / (1 - ᾱ)) at every network evaluation: the time in which a solver's exact solution is smooth."""
        alphas_cumprod = (self.table.alphas_cumprod[step] for step in self._eval_steps)
        return tuple(math.log(a / (1 - a)) for a in alphas_cumprod)

    @property
    def _eval_steps(self) -> tuple[int, ...]:
        """The step whose timestep each network evaluation is at."""
        steps = tuple(range(len(self.table)))
        if self.config.name != "plms":
            return steps
        return (0, min(1, steps[-1]), *steps[1:])

    @property
    def num_evals(self) -> int:
        return len(self.eval_timesteps)

    def sample(self, denoiser: Denoiser, x: Tensor, noise: Noise) -> Iterator[Step]:
        """The states from x (B, C, H, W), distributed as x_T, to the final image.

        A learned variance that the denoiser returns beside eps is used by ddpm with variance=learned_range, and
        dropped by everything else.
        """
        config = self.config
        clip = config.name == "ddpm" if config.clip is None else config.clip
        if config.name == "plms":
            return plms(eps_only(denoiser), x, self.table)
        if config.name == "dpmpp_2m":
            return dpmpp_2m(eps_only(denoiser), x, self.table, clip=clip)
        if config.name == "ddpm":
            return ddpm(denoiser, x, self.table, noise, variance=config.variance, clip=clip)
        return ddim(eps_only(denoiser), x, self.table, noise, eta=config.eta, clip=clip)


SAMPLERS = ("ddim", "plms", "dpmpp_2m", "ddpm")
