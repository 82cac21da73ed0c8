"""How features drift along uncached trajectories: what caching lives from (Ma et al. 2023, figure 2)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from experiments.pipeline import Pipeline
from models import UNet
from samplers import Sampler


@dataclass(frozen=True)
class Drift:
    """Of the features that enter up[branch] at all pairs of network evaluations; (T, T) each, means over images."""

    cosine: np.ndarray  # cosine similarity
    relative: np.ndarray  # |F_i - F_j| / |F_i|, Euclidean
    l1: np.ndarray  # mean |F_i - F_j| over the elements

    @property
    def neighbours(self) -> np.ndarray:
        """(T-1,) relative change from each evaluation to the next."""
        return np.diagonal(self.relative, 1)


class Recorder:
    """Stands in for the cached denoiser: runs everything in full and keeps what enters some branches."""

    def __init__(self, unet: UNet, branches: Sequence[int]) -> None:
        self.unet, self.branches = unet, branches
        self.features: dict[int, list[Tensor]] = {branch: [] for branch in branches}

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        eps, tapped = self.unet(x, t, cond, taps=self.branches)
        for branch, feature in tapped.items():
            self.features[branch].append(feature.float().flatten())
        return eps


@torch.inference_mode()
def measure_drift(
    pipeline: Pipeline, sampler: Sampler, branches: Sequence[int], seeds: Sequence[int]
) -> dict[int, Drift]:
    """Runs one uncached trajectory per seed -> the drift at each branch.

    One image at a time; memory holds the features of its T evaluations at these branches, nothing of other images.
    """
    total = {branch: [np.zeros((sampler.num_evals, sampler.num_evals)) for _ in range(3)] for branch in branches}
    for seed in tqdm(seeds, unit="trajectory", desc="drift of features"):
        recorder, noise = Recorder(pipeline.unet, branches), pipeline.noise([seed])
        # Both halves of a guided evaluation count as one feature.
        for _ in sampler.sample(pipeline.bind([recorder], [seed]), noise(), noise):
            pass
        for branch, features in recorder.features.items():
            for sum_, value in zip(total[branch], _distances(torch.stack(features)), strict=True):
                sum_ += value / len(seeds)
    return {branch: Drift(*parts) for branch, parts in total.items()}


def _distances(features: Tensor) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of features (T, D): cosine similarity, relative Euclidean and mean L1 distance -> (T, T) each."""
    norms = features.norm(dim=1)
    cosine = (features @ features.T) / (norms[:, None] * norms)
    relative = torch.cdist(features[None], features[None], compute_mode="donot_use_mm_for_euclid_dist")[0]
    l1 = torch.cdist(features[None], features[None], p=1)[0] / features.shape[1]
    return tuple(part.double().cpu().numpy() for part in (cosine, relative / norms[:, None], l1))
