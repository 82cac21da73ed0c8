"""Sampling images from seeds, cached or not, and timing it."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from caching import NULL, Cached, Plan
from experiments.grid import Strategy
from experiments.pipeline import Pipeline
from models import SplitUNet
from models.feature import each
from samplers import GuidanceConfig, GuidancePlan, Sampler, uncond_evals


class Counter(Protocol):
    """What is told of image steps that were made: a progress bar, say."""

    def update(self, amount: int) -> object: ...


@dataclass(frozen=True)
class Run:
    """The network under one strategy."""

    name: str
    cached: list[Cached]  # the conditional or only one, and where guidance makes two calls the unconditional one
    guidance: GuidanceConfig

    @property
    def splits(self) -> bool:
        """Are the parts of split convolutions what it stores?"""
        return isinstance(self.cached[0].unet, SplitUNet)


@dataclass(frozen=True)
class Trajectory:
    """How a batch came to its final states."""

    x: Tensor  # (B, C, h, w)
    plans: list[list[Plan]]  # that each of Run.cached ran: one per image, or a single one
    guidance: GuidancePlan  # where some evaluations are not guided in full; else empty
    seconds: float  # in the sampling loop alone, device synchronised: no loading, decoding or writing

    @property
    def traces(self) -> list[Plan]:
        """The depths that were run: one plan per image, or a single one that all images share."""
        return shared(self.plans[0])

    @property
    def uncond_traces(self) -> list[Plan]:
        """Where guidance makes two calls, the depths that the unconditional one was run at."""
        return shared(self.plans[1]) if len(self.plans) == 2 else []

    @property
    def priced(self) -> Plan:
        """What became of the calls that guidance at every evaluation would make, of all images; those left out cost
        nothing."""
        made = tuple(itertools.chain(*itertools.chain(*self.plans)))
        wanted = len(self.plans) * sum(map(len, self.plans[0]))
        return made + (NULL,) * (wanted - len(made))


class Made(NamedTuple):
    """What one strategy made of one batch."""

    name: str
    trajectory: Trajectory
    images: Tensor  # (B, C, H, W) in [-1, 1], on the CPU
    decoding: float  # seconds from final states to these images
    store_bytes: int  # that the cached features take


def batches(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


def begin_all(pipeline: Pipeline, sampler: Sampler, chosen: Sequence[Strategy]) -> list[Run]:
    """The network under every strategy. Raises InputError, before anything has been computed, where a policy has no
    plan for this sampler or network."""
    runs = [Run(s.name, pipeline.cached(s), pipeline.guidance(s)) for s in chosen]
    for run in runs:
        begin(sampler, run)
    return runs


def sample_images(pipeline: Pipeline, sampler: Sampler, run: Run, seeds: Sequence[int], bar: Counter) -> Made:
    """One image for each seed."""
    trajectory = sample_batch(pipeline, sampler, run, seeds, bar)
    store_bytes = sum(cached.store.nbytes for cached in run.cached)
    start = _time(pipeline.device)
    images = pipeline.decode(trajectory.x)
    return Made(run.name, trajectory, images, _time(pipeline.device) - start, store_bytes)


@torch.inference_mode()
def sample_batch(pipeline: Pipeline, sampler: Sampler, run: Run, seeds: Sequence[int], bar: Counter) -> Trajectory:
    """One trajectory for each seed; image i depends on seeds[i] alone."""
    noise = pipeline.noise(seeds)
    x = noise()
    plan = begin(sampler, run)
    denoiser = pipeline.bind(run.cached, seeds, plan)
    start = _time(pipeline.device)
    for step in sampler.sample(denoiser, x, noise):
        x = step.x
        bar.update(len(seeds))
    seconds = _time(pipeline.device) - start
    return Trajectory(x, [cached.traces for cached in run.cached], plan if run.guidance.is_partial else (), seconds)


def begin(sampler: Sampler, run: Run) -> GuidancePlan:
    """Begins a trajectory of the cached networks -> where they are guided."""
    plan = run.guidance.plan(sampler.eval_log_snr)
    for cached, at in zip(run.cached, (None, uncond_evals(plan)), strict=False):
        cached.begin(sampler.num_evals, sampler.eval_log_snr, at)
    return plan


@torch.inference_mode()
def warm_up(pipeline: Pipeline, cached: Sequence[Cached], batch_size: int) -> None:
    """Runs every depth that the policy may choose: first calls choose kernels and allocate, which no later one does."""
    cond = pipeline.cond(range(batch_size))
    if pipeline.is_guided and len(cached) == 1:
        cond = torch.cat([cond, cond])
        batch_size *= 2
    x = torch.zeros(batch_size, *pipeline.shape, device=pipeline.device, dtype=pipeline.dtype)
    t = torch.zeros(batch_size, dtype=torch.long, device=pipeline.device)
    unet = cached[0].unet
    # The unconditional call may have depths of its own, where guidance leaves some of them out.
    for branches in {tuple(branch for branch in each_call.branches if branch != NULL) for each_call in cached}:
        _, tapped = unet(x, t, cond, taps=branches)
        for branch in branches:
            outside = [other for other in branches if other < branch]
            # Copies, as the store's: programs are compiled for a layout.
            unet(x, t, cond, branch=branch, feature=each(torch.clone, tapped[branch]), taps=outside)


def shared(plans: list[Plan]) -> list[Plan]:
    """One plan where all are the same."""
    return plans[:1] if len(set(plans)) == 1 else plans


def _time(device: torch.device) -> float:
    """Wall-clock seconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
