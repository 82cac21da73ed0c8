"""Sampling images from seeds, cached or not, and timing it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from caching import CachedDenoiser, Plan, Policy
from models import UNet
from samplers import ImageNoise, Sampler


@dataclass
class Run:
    """What one policy made of the wanted seeds."""

    plan: Plan
    batches: list[Tensor] = field(default_factory=list)  # images in [-1, 1], on the CPU
    trace: Plan = ()  # the depths that were run; the same for every batch under a static policy
    seconds: float = 0.0  # in the sampling loop alone, device synchronised, without loading or writing

    @property
    def images(self) -> Tensor:
        return torch.cat(self.batches)


def batches(seeds: Sequence[int], size: int) -> Iterator[Sequence[int]]:
    for start in range(0, len(seeds), size):
        yield seeds[start : start + size]


@torch.inference_mode()
def sample_batch(denoiser: CachedDenoiser, sampler: Sampler, seeds: Sequence[int], bar: tqdm | None = None) -> Tensor:
    """One trajectory for each seed -> x_0 (B, C, H, W) on the CPU; image i depends on seeds[i] alone."""
    network = denoiser.unet.config
    device = next(denoiser.unet.parameters()).device
    noise = ImageNoise(seeds, (network.in_channels, network.resolution, network.resolution), device)
    denoiser.begin(sampler.num_evals)
    for step in sampler.sample(denoiser, noise(), noise):
        x = step.x
        if bar is not None:
            bar.update(len(seeds))
    return x.cpu()


def sample_policies(
    network: UNet, sampler: Sampler, policies: Sequence[tuple[str, Policy]], seeds: Sequence[int], batch_size: int
) -> list[Run]:
    """Samples the same seeds under every policy, batch by batch in turn, so that a machine whose speed drifts drifts
    for all of them alike."""
    denoisers = [(name, CachedDenoiser(network, policy)) for name, policy in policies]
    runs = []
    for _, denoiser in denoisers:  # plans that do not fit end the run here, before anything has been computed
        denoiser.begin(sampler.num_evals)
        runs.append(Run(denoiser.plan))
    for _, denoiser in denoisers:
        warm_up(denoiser, min(batch_size, len(seeds)))
    steps = len(sampler.table)
    with tqdm(total=len(seeds) * steps * len(runs), unit="image step", unit_scale=True, smoothing=0.05) as bar:
        for batch in batches(seeds, batch_size):
            for (name, denoiser), run in zip(denoisers, runs, strict=True):
                bar.set_description(name)
                start = synchronised_time(network)
                run.batches.append(sample_batch(denoiser, sampler, batch, bar))
                run.seconds += synchronised_time(network) - start
                run.trace = denoiser.trace
    return runs


@torch.inference_mode()
def warm_up(denoiser: CachedDenoiser, batch_size: int) -> None:
    """Runs every depth of the plan once: first calls choose kernels and allocate, which no later one does."""
    network = denoiser.unet.config
    parameter = next(denoiser.unet.parameters())
    x = torch.zeros(batch_size, network.in_channels, network.resolution, network.resolution, device=parameter.device)
    t = torch.zeros(batch_size, dtype=torch.long, device=parameter.device)
    deepest = network.num_branches - 1
    _, tapped = denoiser.unet(x, t, taps=range(deepest + 1))
    for branch in {depth for depth in denoiser.plan if depth is not None}:
        denoiser.unet(x, t, branch=branch, feature=tapped[branch])


def synchronised_time(network: UNet) -> float:
    """Wall-clock seconds once the device has finished what it was given."""
    if next(network.parameters()).is_cuda:
        torch.cuda.synchronize()
    return time.perf_counter()
