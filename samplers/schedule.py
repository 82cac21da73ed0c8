"""Noise schedules: how much signal is left at each of the T training timesteps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from configs import InputError, one_of


@dataclass(frozen=True)
class DiffusionConfig:
    """The forward process that a network was trained on, q(x_t | x_0) = N(sqrt(ᾱ_t) x_0, (1 - ᾱ_t) I).

    precision: what ᾱ goes through on its way, since 1 - ᾱ keeps few of the digits that float32 has near 1:
      float64    nothing (Ho et al. 2020; guided-diffusion)
      rounded    ᾱ is stored as float32 (DDIM and PLMS of CompVis; its ancestral tables are float64)
      float32    β is float32 too (ermongroup/ddim, DeepCache, diffusers); the products are kept in float64 and each
                 stored as float32, as torch.cumprod does on the CPU
    """

    schedule: str = "linear"  # linear | scaled_linear (linear in sqrt(β)) | cosine
    beta_start: float = 1e-4  # linear, scaled_linear
    beta_end: float = 0.02
    num_timesteps: int = 1000
    precision: str = "float64"

    def __post_init__(self) -> None:
        one_of(self.schedule, BETAS, "the noise schedule")
        one_of(self.precision, ("float64", "float32", "rounded"), "precision")
        if self.num_timesteps < 1:
            raise InputError(f"num_timesteps must be at least 1, not {self.num_timesteps}")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise InputError(f"0 < beta_start <= beta_end < 1 must hold, not {self.beta_start}, {self.beta_end}")
        if self.schedule == "cosine" and (self.beta_start, self.beta_end) != (1e-4, 0.02):
            raise InputError("the cosine schedule has no beta_start and beta_end; leave them out")
        alphas_cumprod = self.alphas_cumprod()
        if not 0 < alphas_cumprod[-1] <= alphas_cumprod[0] < 1:
            raise InputError(
                f"alphas_cumprod must stay between 0 and 1 (both excluded), but it runs from {alphas_cumprod[0]} to "
                f"{alphas_cumprod[-1]}; take other betas, or precision=float64"
            )

    def betas(self) -> np.ndarray:
        """β_t, t = 0 … T-1 -> (T,) float64."""
        return BETAS[self.schedule](self)

    def alphas_cumprod(self) -> np.ndarray:
        """ᾱ_t = Π_{s≤t} (1 - β_s), t = 0 … T-1 -> (T,) float64 holding values of the asked-for precision."""
        alphas = 1 - self.betas()
        if self.precision == "float32":
            alphas = (np.float32(1) - self.betas().astype(np.float32)).astype(np.float64)
        alphas_cumprod = np.cumprod(alphas)
        return alphas_cumprod if self.precision == "float64" else alphas_cumprod.astype(np.float32).astype(np.float64)


def linear_betas(config: DiffusionConfig) -> np.ndarray:
    """Ho et al. 2020, section 4."""
    return np.linspace(config.beta_start, config.beta_end, config.num_timesteps)


def scaled_linear_betas(config: DiffusionConfig) -> np.ndarray:
    """CompVis "linear": linear in sqrt(β)."""
    return np.linspace(config.beta_start**0.5, config.beta_end**0.5, config.num_timesteps) ** 2


def cosine_betas(config: DiffusionConfig) -> np.ndarray:
    """Nichol & Dhariwal 2021, eq. 17: ᾱ(t) = cos²((t + 0.008)/1.008 · π/2), β at most 0.999."""

    def alpha_bar(t: np.ndarray) -> np.ndarray:
        return np.cos((t + 0.008) / 1.008 * np.pi / 2) ** 2

    t = np.arange(config.num_timesteps) / config.num_timesteps
    return np.minimum(1 - alpha_bar(t + 1 / config.num_timesteps) / alpha_bar(t), 0.999)


BETAS = {"linear": linear_betas, "scaled_linear": scaled_linear_betas, "cosine": cosine_betas}
