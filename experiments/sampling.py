"""Sampling images from seeds, cached or not, and timing it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from caching import NULL, CachedDenoiser, Plan, cached_branches
from experiments.grid import Strategy
from experiments.pipeline import Pipeline
from samplers import Sampler


@dataclass
class Run:
    """What one strategy made of the wanted seeds."""

    name: str
    cached: list[CachedDenoiser]
    batches: list[Tensor] = field(default_factory=list)  # images in [-1, 1], on the CPU
    trace: Plan = ()  # the depths that were run; the same for every batch under a static policy
    seconds: float = 0.0  # in the sampling loop alone, device synchronised: no loading, decoding or writing

    @property
    def images(self) -> Tensor:
        return torch.cat(self.batches)


def batches(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


def sample_strategies(
    pipeline: Pipeline, sampler: Sampler, chosen: Sequence[Strategy], seeds: Sequence[int], batch_size: int
) -> list[Run]:
    """Samples the same seeds under every strategy, batch by batch in turn, so that a machine whose speed drifts drifts
    for all of them alike.

    Raises InputError, before anything has been computed, where a policy has no plan for this sampler or network.
    """
    runs = [Run(strategy.name, pipeline.cached(strategy)) for strategy in chosen]
    for run in runs:
        run.cached[0].begin(sampler.num_evals, sampler.eval_log_snr)
    for run in runs:
        warm_up(pipeline, run.cached[0], min(batch_size, len(seeds)))
    with tqdm(total=len(seeds) * len(sampler.table) * len(runs), unit="image step", unit_scale=True) as bar:
        for batch in batches(seeds, batch_size):
            for run in runs:
                bar.set_description(run.name)
                x = sample_batch(pipeline, sampler, run, batch, bar)
                run.batches.append(pipeline.decode(x))
    return runs


@torch.inference_mode()
def sample_batch(pipeline: Pipeline, sampler: Sampler, run: Run, seeds: Sequence[int], bar: tqdm) -> Tensor:
    """One trajectory for each seed -> its final state (B, C, h, w); image i depends on seeds[i] alone."""
    noise = pipeline.noise(seeds)
    x = noise()
    denoiser = pipeline.bind(run.cached, seeds)
    start = _time(pipeline.device)
    for cached in run.cached:
        cached.begin(sampler.num_evals, sampler.eval_log_snr)
    for step in sampler.sample(denoiser, x, noise):
        x = step.x
        bar.update(len(seeds))
    run.seconds += _time(pipeline.device) - start
    run.trace = run.cached[0].trace
    return x


@torch.inference_mode()
def warm_up(pipeline: Pipeline, cached: CachedDenoiser, batch_size: int) -> None:
    """Runs every depth of the plan once: first calls choose kernels and allocate, which no later one does."""
    cond = pipeline.cond(range(batch_size))
    if pipeline.is_guided and pipeline.config.guidance.calls == 1:
        cond = torch.cat([cond, cond])
        batch_size *= 2
    x = torch.zeros(batch_size, *pipeline.shape, device=pipeline.device, dtype=pipeline.dtype)
    t = torch.zeros(batch_size, dtype=torch.long, device=pipeline.device)
    branches = [branch for branch in cached_branches(cached.plan) if branch != NULL]
    _, tapped = pipeline.unet(x, t, cond, taps=branches)
    for branch in branches:
        pipeline.unet(x, t, cond, branch=branch, feature=tapped[branch])


def _time(device: torch.device) -> float:
    """Wall-clock seconds, once the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
