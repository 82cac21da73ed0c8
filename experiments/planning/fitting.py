"""Fitted forecasts: weights of the stored features by ridge regression on the cached trajectory itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from caching import NULL, CachedDenoiser, Explicit, Fitted, Forecaster, Moment, Plan, Policy
from experiments.pipeline import Pipeline
from experiments.runs.sampling import Run, batches, sample_batch
from models import UNet
from samplers import Sampler


@dataclass
class NormalEquations:
    """What least squares needs to know of the stored features F_k and the true feature F, summed over images."""

    gram: np.ndarray  # <F_j, F_k>
    cross: np.ndarray  # <F_j, F>
    prior: np.ndarray = field(repr=False)  # the closed-form weights


class Teacher(CachedDenoiser):
    """A cached denoiser that at every forecast also runs in full, and sums up how the true feature relates to the
    stored ones. The trajectory stays the cached one: weights are fitted where they will be used (on-policy)."""

    def __init__(self, unet: UNet, policy: Policy, forecaster: Forecaster) -> None:
        super().__init__(unet, policy, forecaster)
        self.equations: dict[str, NormalEquations] = {}  # by "evaluation:branch", over all trajectories

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        branch = self.plan[self.calls]
        if branch is not None:
            eps, tapped = self.unet(x, t, cond, taps=[branch] if branch != NULL else [])
            self._observe(branch, self._moments[self.calls], tapped.get(branch, eps))
        return super().__call__(x, t, cond)

    def _observe(self, branch: int, now: Moment, truth: Tensor) -> None:
        prior, features = self._weigh(branch, now)
        rows = torch.stack([feature.flatten() for feature in (*features, truth)]).double()
        products = (rows @ rows.T).cpu().numpy()
        key = Fitted.key(now, branch)
        if key not in self.equations:
            count = len(features)
            self.equations[key] = NormalEquations(np.zeros((count, count)), np.zeros(count), np.array(prior))
        self.equations[key].gram += products[:-1, :-1]
        self.equations[key].cross += products[:-1, -1]


def fit(
    pipeline: Pipeline,
    sampler: Sampler,
    plan: Plan,
    forecaster: Forecaster,
    seeds: Sequence[int],
    batch_size: int,
    ridge: float,
) -> Fitted:
    """Weights w for every forecast of `plan` that minimise Σ |F - Σ w_k F_k|² + ridge · s · |w - w_0|².

    forecaster: the closed form w_0 that they are drawn towards, and that makes the trajectories fitted on. s: the
    mean square of the stored features, so that `ridge` has no unit. Memory: one batch's store, and of the statistics
    (history + 1)·history numbers per forecast, whatever the number of seeds.
    """
    cached = Teacher(pipeline.unet, Explicit(entries=list(plan)), forecaster)
    run = Run("fitting", [cached], pipeline.config.guidance)
    with tqdm(total=len(seeds) * len(sampler.table), unit="image step", desc="fitting weights") as bar:
        for part in batches(seeds, batch_size):
            sample_batch(pipeline, sampler, run, part, bar)
    return Fitted({key: _solve(equations, ridge) for key, equations in cached.equations.items()})


def _solve(equations: NormalEquations, ridge: float) -> list[float]:
    # The normal equations (G + r s I) (w - w_0) = c - G w_0.
    penalty = ridge * np.trace(equations.gram) / len(equations.gram)
    left = equations.gram + penalty * np.eye(len(equations.gram))
    change = np.linalg.solve(left, equations.cross - equations.gram @ equations.prior)
    return (equations.prior + change).tolist()
