"""Our own networks under measurement: passes and trajectories, as a sampling run makes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import torch
from torch import Tensor

from caching import CachedDenoiser, Plan, Reuse
from experiments.benchmark.variants import LAYOUTS, Variant
from experiments.benchmark.workload import Task, Workload
from models import UNet
from models.fast import FastUNet, SplitUNet
from models.kernels import optimise
from models.programs import compile_passes
from samplers import ConditionalDenoiser, guide

PASSES = 10_000  # that a denoiser makes before it begins anew


class Unavailable(Exception):  # noqa: N818 - not an error: the output says why something was left out
    """Why a variant cannot be measured here, in words."""


class Plain:
    """Our U-Net as it is."""

    splits: ClassVar[bool] = False  # does it do the cached half of a partial pass's first convolution once?

    def __init__(self, work: Workload, variant: Variant) -> None:
        self.work, self.variant = work, variant
        network = work.network().to(work.device, variant.dtype, memory_format=LAYOUTS[variant.layout])
        self.unet = self.transform(network)
        self.row_cond = in_dtype(work.row_cond, variant.dtype)
        self.cond = in_dtype(work.cond, variant.dtype)
        self.uncond = in_dtype(work.uncond, variant.dtype)
        self._denoisers: dict[Task, CachedDenoiser] = {}

    @staticmethod
    def prepare() -> None:
        """Loads what is needed, once, before memory is measured. Raises Unavailable where it is not installed."""

    def transform(self, network: UNet) -> UNet:
        """What runs in the place of the network."""
        if self.variant.compiled:
            network.compile()
        return network

    def call(self, task: Task) -> Callable[[], Tensor]:
        """What computes `task` -> eps (B, C, H, W) in float32, or the final state of a trajectory.

        Raises Unavailable for a task that this engine has no way to compute.
        """
        if task.interval is not None:
            return lambda: self.sample(task)
        return lambda: self.one_pass(task).float()

    @property
    def store_bytes(self) -> int:
        """Of the cached features that the trajectories keep, else the passes."""
        stores = {task: denoiser.store.nbytes for task, denoiser in self._denoisers.items()}
        sampling = [nbytes for task, nbytes in stores.items() if task.interval is not None]
        return max(sampling or stores.values(), default=0)

    def one_pass(self, task: Task) -> Tensor:
        x = self.work.x.to(self.variant.dtype)
        if task.branch is None:
            return self.unet(x, self.work.t, self.row_cond)[0]
        denoiser = self._denoisers.get(task)
        if denoiser is None or denoiser.evaluations == PASSES:
            denoiser = self._denoisers[task] = CachedDenoiser(self.unet, FullOnce(task.branch), Reuse())
            denoiser.begin(PASSES)
            denoiser(x, self.work.t, self.row_cond)
        return denoiser(x, self.work.t, self.row_cond)

    def sample(self, task: Task) -> Tensor:
        """One trajectory of every image -> the final states (B, C, H, W)."""
        if task not in self._denoisers:
            self._denoisers[task] = CachedDenoiser(self.unet, self.work.policy(task), Reuse())
        denoiser = self._denoisers[task]
        denoiser.begin(self.work.sampler.num_evals, self.work.sampler.eval_log_snr)
        return trajectory(self.work, in_precision(denoiser, self.variant.dtype), self.cond, self.uncond)


class Constants(Plain):
    """With the constants of a run computed once."""

    def transform(self, network: UNet) -> UNet:
        return super().transform(FastUNet(network, self.work.model.diffusion.num_timesteps))


class Split(Plain):
    """And with the cached half of the concat convolution computed once per refresh."""

    splits: ClassVar[bool] = True

    def transform(self, network: UNet) -> UNet:
        return super().transform(SplitUNet(FastUNet(network, self.work.model.diffusion.num_timesteps)))


class Fast(Plain):
    """All of it, on the layers of models/kernels.py; compiled: every depth as a program of its own."""

    splits: ClassVar[bool] = True

    def transform(self, network: UNet) -> UNet:
        fast = SplitUNet(optimise(FastUNet(network, self.work.model.diffusion.num_timesteps)))
        if self.variant.compiled:
            compile_passes(fast)
        return fast


class FullOnce:
    """The policy of partial passes that are timed one by one: all but the first."""

    def __init__(self, branch: int) -> None:
        self.branch = branch

    def plan(self, num_evals: int) -> Plan:
        return (None, *[self.branch] * (num_evals - 1))


def trajectory(work: Workload, denoiser: ConditionalDenoiser, cond: Tensor | None, uncond: Tensor | None) -> Tensor:
    """Runs the sampler over a denoiser, guided as the run says -> the final states (B, C, H, W)."""
    noise = work.noise()
    x = noise()
    for step in work.sampler.sample(guide(denoiser, cond, uncond, work.scale), x, noise):
        x = step.x
    return x


def in_precision(denoiser: ConditionalDenoiser, dtype: torch.dtype) -> ConditionalDenoiser:
    """Evaluations in `dtype`, the sampler's state in float32."""
    if dtype == torch.float32:
        return denoiser
    return lambda x, t, cond: denoiser(x.to(dtype), t, cond).float()


def in_dtype(cond: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A context in the network's precision; labels stay what they are."""
    return cond.to(dtype) if cond is not None and cond.is_floating_point() else cond
