"""Our own networks under measurement: passes and trajectories, as a sampling run makes them."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from caching import CachedDenoiser, Plan, Policy, Reuse
from experiments.benchmark.variants import LAYOUTS, Variant
from experiments.benchmark.workload import Task, Workload
from experiments.engine import Engine, EngineConfig
from experiments.grid import UNCACHED, Strategy
from experiments.precision import in_precision
from samplers import ConditionalDenoiser, guide

PASSES = 10_000  # that a denoiser makes before it begins anew


class Unavailable(Exception):  # noqa: N818 - not an error: the output says why something was left out
    """Why a variant cannot be measured here, in words."""


class Ours:
    """Our U-Net under our own engines, as a sampling run has it (experiments/engine.py)."""

    def __init__(self, work: Workload, variant: Variant) -> None:
        self.work, self.variant = work, variant
        config = EngineConfig(engine=variant.engine, compile=variant.compiled)
        network = work.network().to(work.device, variant.dtype)
        self.engine = Engine(config, network, work.model.diffusion.num_timesteps)
        if variant.layout is not None:
            self.engine.unet.to(memory_format=LAYOUTS[variant.layout])
        self.row_cond = in_dtype(work.row_cond, variant.dtype)
        self.cond = in_dtype(work.cond, variant.dtype)
        self.uncond = in_dtype(work.uncond, variant.dtype)
        self._denoisers: dict[Task, CachedDenoiser] = {}

    @staticmethod
    def prepare() -> None:
        """Loads what is needed, once, before memory is measured. Raises Unavailable where it is not installed."""

    @property
    def splits(self) -> bool:
        """Do partial passes leave out what they would compute from the cached feature alone?"""
        return self.engine.splits(UNCACHED)

    @property
    def store_bytes(self) -> int:
        """Of the cached features that the trajectories keep, else the passes."""
        stores = {task: denoiser.store.nbytes for task, denoiser in self._denoisers.items()}
        sampling = [nbytes for task, nbytes in stores.items() if task.interval is not None]
        return max(sampling or stores.values(), default=0)

    def call(self, task: Task) -> Callable[[], Tensor]:
        """What computes `task` -> eps (rows, C, H, W) in float32, or the final states of a trajectory (B, C, H, W).

        Raises Unavailable for a task that this engine has no way to compute.
        """
        if task.interval is not None:
            return lambda: self.sample(task)
        return lambda: self.one_pass(task).float()

    def one_pass(self, task: Task) -> Tensor:
        x, t, cond = self.work.x.to(self.variant.dtype), self.work.t, self.row_cond
        if task.branch is None:
            return self.engine.network(UNCACHED)(x, t, cond)[0]
        denoiser = self._denoisers.get(task)
        if denoiser is None or denoiser.calls == PASSES:
            denoiser = self._denoisers[task] = self._cached(FullOnce(task.branch))
            denoiser.begin(PASSES)
            denoiser(x, t, cond)
        return denoiser(x, t, cond)

    def sample(self, task: Task) -> Tensor:
        """One trajectory of every image -> the final states (B, C, H, W)."""
        if task not in self._denoisers:
            self._denoisers[task] = self._cached(self.work.policy(task))
        denoiser = self._denoisers[task]
        denoiser.begin(self.work.sampler.num_evals, self.work.sampler.eval_log_snr)
        return trajectory(self.work, in_precision(denoiser, self.variant.dtype), self.cond, self.uncond)

    def _cached(self, policy: Policy) -> CachedDenoiser:
        """The paper's caching: of reused features, which is all that others have."""
        strategy = Strategy("benchmark", policy, Reuse())
        return CachedDenoiser(self.engine.network(strategy), policy, strategy.forecaster)


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


def in_dtype(cond: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """A context in the network's precision; labels stay what they are."""
    return cond.to(dtype) if cond is not None and cond.is_floating_point() else cond
