"""The cached denoiser as the `unet` of a diffusers pipeline, whose own sampling loop then runs cached, unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from caching.adaptive_denoiser import Cached
from configs import InputError


class Scheduler(Protocol):
    """What is read of a diffusers scheduler."""

    timesteps: Tensor | None  # of every network evaluation, noisiest first; a new tensor after every set_timesteps
    alphas_cumprod: Tensor  # of every timestep trained on; read where there is one, for forecasts in log-SNR


class Pipeline(Protocol):
    """What is read of a diffusers pipeline."""

    scheduler: Scheduler


class UNetOutput(NamedTuple):
    """What a diffusers U-Net returns: `.sample` with return_dict=True, a tuple with return_dict=False; this is both."""

    sample: Tensor


class DiffusersConfig(NamedTuple):
    """What pipelines read of `unet.config`."""

    in_channels: int
    out_channels: int
    sample_size: int
    cross_attention_dim: int | None
    time_cond_proj_dim: None = None  # of consistency models


class DiffusersUNet(nn.Module):
    """A cached network in the place of diffusers' UNet2DModel or UNet2DConditionModel (this module needs no diffusers):

        unet = models.fast(models.from_diffusers(pipe.unet))
        pipe.unet = DiffusersUNet(CachedDenoiser(unet, Uniform(interval=5, branch=1), Reuse()), pipe)

    pipe: read for its scheduler's `timesteps`, which hold one entry per network evaluation (51 for 50 steps of PNDM,
      the second timestep twice): what `begin` must be told. The pipeline rather than the scheduler, since schedulers
      get exchanged, by DDIMPipeline itself among others.

    Nothing calls `begin` in a pipeline, so a trajectory begins by itself: at the first evaluation after the scheduler's
    set_timesteps, which every run of a pipeline calls, and whenever an evaluation is not at the timestep that is next.
    It has to be at the scheduler's first timestep; anything else raises InputError. So a run that was broken off leaves
    nothing behind, and what starts midway (image to image) is refused.
    """

    def __init__(self, cached: Cached, pipe: Pipeline) -> None:
        super().__init__()
        if not isinstance(cached, Cached):
            raise InputError(f"DiffusersUNet takes a CachedDenoiser, or what cached_denoiser made, not a "
                             f"{type(cached).__name__}")  # fmt: skip
        if not hasattr(pipe, "scheduler"):
            raise InputError(
                f"DiffusersUNet takes the pipeline, whose scheduler it follows, not a {type(pipe).__name__}"
            )
        self.unet = cached.unet  # registered: `.to(device, dtype)` of the pipeline reaches it
        self.cached, self.pipe = cached, pipe
        self._timesteps: Tensor | None = None  # the scheduler's, of the trajectory under way
        self._order: list[float] = []  # their values
        network = cached.unet.config
        self.config = DiffusersConfig(network.in_channels, network.out_channels, network.resolution,
                                      network.context_dim)  # fmt: skip

    @property
    def device(self) -> torch.device:
        return next(self.unet.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.unet.parameters()).dtype

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float,
        encoder_hidden_states: Tensor | None = None,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
        **others: Any,
    ) -> UNetOutput:
        """One network evaluation: sample (B, C, H, W), timestep a number or () or (B,),
        encoder_hidden_states (B, L, D) or class_labels (B,) as the network needs -> .sample (B, out_channels, H, W).

        others: what else diffusers' networks take (ControlNet residuals, attention masks, LoRA scales, …) is accepted
          as long as it is empty. return_dict: the output is a tuple and has `.sample` either way.
        Raises InputError for what this network does not take, and for a timestep out of the scheduler's order.
        """
        for name, value in others.items():
            if value is not None and value != {}:
                raise InputError(f"the cached network takes no {name}; leave it out, or use diffusers' own network")
        if encoder_hidden_states is not None and class_labels is not None:
            raise InputError("the network has either a context (encoder_hidden_states) or class_labels, not both")
        t = torch.as_tensor(timestep, device=sample.device).flatten()
        self._follow(t[0].item())  # waits for the device once per evaluation, as the schedulers' own `step` does
        cond = class_labels if encoder_hidden_states is None else encoder_hidden_states
        return UNetOutput(self.cached(sample, t.expand(len(sample)), cond))

    def _follow(self, timestep: float) -> None:
        """Begins a trajectory unless this is the next evaluation of the one under way."""
        timesteps, done = self.pipe.scheduler.timesteps, self.cached.calls
        if timesteps is None:
            raise InputError("the pipeline's scheduler has no timesteps yet; call its set_timesteps before sampling")
        under_way = timesteps is self._timesteps and done < len(self._order)
        if under_way and timestep == self._order[done]:
            return
        order = timesteps.tolist()
        if timestep != order[0]:
            following = f"{order[done]} follows" if under_way else f"they begin at {order[0]}"
            raise InputError(f"timestep {timestep} is out of the scheduler's order ({following}); the cached network "
                             "needs every run from its start, and the pipeline that samples")  # fmt: skip
        self.cached.begin(len(order), log_snr(self.pipe.scheduler, order))
        self._timesteps, self._order = timesteps, order


def log_snr(scheduler: Scheduler, timesteps: Sequence[float]) -> list[float] | None:
    """ln(ᾱ/(1-ᾱ)) at these timesteps, interpolated between whole ones; None where the scheduler has no ᾱ of them."""
    alphas_cumprod = getattr(scheduler, "alphas_cumprod", None)
    if alphas_cumprod is None or not 0 <= min(timesteps) <= max(timesteps) <= len(alphas_cumprod) - 1:
        return None
    table = torch.logit(alphas_cumprod.double()).tolist()
    return np.interp(timesteps, range(len(table)), table).tolist()
