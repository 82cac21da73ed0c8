"""The true end error: how far cached trajectories end from the uncached ones of the same seeds."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from caching import AdaptivePolicy, Depth, Explicit, Forecaster, Plan, Policy
from experiments.digest import json_digest
from experiments.grid import UNCACHED, Strategy
from experiments.pipeline import Pipeline
from experiments.planning.naming import settings_of
from experiments.plugins import code_of
from experiments.runs.sampling import Run, batches, sample_batch
from samplers import Sampler


def final_states(
    pipeline: Pipeline, sampler: Sampler, strategy: Strategy, seeds: Sequence[int], batch_size: int, bar: tqdm
) -> tuple[Tensor, Plan]:
    """One trajectory per seed -> the final states (N, C, h, w), on the CPU, pixels clipped to [-1, 1]; and the depths
    of all network calls that were made for them, to be priced."""
    run = Run(strategy.name, pipeline.cached(strategy), pipeline.guidance(strategy))
    states, depths = [], []
    for part in batches(seeds, batch_size):
        trajectory = sample_batch(pipeline, sampler, run, part, bar)
        states.append(trajectory.x.cpu())
        depths += trajectory.priced
    x = torch.cat(states)
    return x if pipeline.parts.first_stage else x.clamp(-1, 1), tuple(depths)


def squared_errors(x: Tensor, reference: Tensor) -> list[float]:
    """Mean squared error of each image (N, C, H, W) in [-1, 1], on the scale of [0, 1]; at least 1e-12, for the
    logarithm."""
    return ((x - reference) / 2).double().square().flatten(1).mean(1).clamp_min(1e-12).tolist()


def mean_psnr(errors: Sequence[float]) -> float:
    """The mean over images of -10 log10(mse), in dB. For latents the same number, though they have no peak."""
    return float(-10 * np.log10(np.asarray(errors)).mean())


class Measured(NamedTuple):
    """How trajectories ended, and what was run for them."""

    errors: list[float]  # squared, one per image
    depths: Counter[Depth]  # of their network calls


class EndError:
    """Measures plans by the end error of their trajectories, and remembers every measurement in a journal.

    The uncached final states of all seeds are kept in memory (N·C·h·w floats); of a running trajectory the
    denoiser keeps what its store holds. With a journal, a search that is run again finds what it has measured.
    """

    def __init__(
        self, pipeline: Pipeline, sampler: Sampler, seeds: Sequence[int], batch_size: int, journal: Path | None = None
    ) -> None:
        self.pipeline, self.sampler = pipeline, sampler
        self.seeds, self.batch_size = list(seeds), batch_size
        self.journal = journal
        self._identity = {
            "checkpoint": pipeline.parts.trajectory_sha256,
            "pipeline": {**asdict(pipeline.config.of_images), "prompts": pipeline.prompts},
            "network": asdict(pipeline.unet.config),
            "sampler": asdict(sampler.config),
            "diffusion": asdict(sampler.diffusion),
        }
        self._known = _read_journal(journal)
        self._reference: Tensor | None = None

    def __call__(self, plan: Plan, forecaster: Forecaster, count: int | None = None) -> list[float]:
        """The squared errors of the first `count` seeds' images (None: all of them)."""
        return self._measure({"plan": plan}, Explicit(entries=list(plan)), forecaster, count).errors

    def adaptive(self, policy: AdaptivePolicy, forecaster: Forecaster, count: int) -> Measured:
        """The same under a policy that decides during sampling, and what it decided."""
        settings = {"policy": type(policy).__name__, **asdict(policy)}
        return self._measure({"plan": settings}, policy, forecaster, count)

    def _measure(
        self, what: Mapping[str, Any], policy: Policy | AdaptivePolicy, forecaster: Forecaster, count: int | None
    ) -> Measured:
        seeds = self.seeds[:count]
        described = settings_of(forecaster) | code_of(type(forecaster))
        key = self._key({**what, "forecaster": described, "seeds": seeds})
        if key not in self._known:
            x, depths = self._sample(Strategy("plan", policy, forecaster), seeds)
            self._remember(key, Measured(squared_errors(x, self.reference(len(seeds))), Counter(depths)))
        return self._known[key]

    def reference(self, count: int) -> Tensor:
        """The final states without a cache of the first `count` seeds."""
        done = 0 if self._reference is None else len(self._reference)
        if done < count:
            more, _ = self._sample(UNCACHED, self.seeds[done:count])
            self._reference = more if self._reference is None else torch.cat([self._reference, more])
        return self._reference[:count]

    def _sample(self, strategy: Strategy, seeds: Sequence[int]) -> tuple[Tensor, Plan]:
        with tqdm(disable=True) as bar:
            return final_states(self.pipeline, self.sampler, strategy, seeds, self.batch_size, bar)

    def _key(self, what: Mapping[str, Any]) -> str:
        return json_digest({**self._identity, **what})

    def _remember(self, key: str, measured: Measured) -> None:
        self._known[key] = measured
        if self.journal is not None:
            entry = {"key": key, "errors": measured.errors, "depths": list(measured.depths.items())}
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with self.journal.open("a", encoding="utf-8") as file:
                # The line break comes first: it ends whatever a killed run left unfinished.
                file.write("\n" + json.dumps(entry))


def _read_journal(path: Path | None) -> dict[str, Measured]:
    """What was measured before; a line that a killed run left unfinished is left out."""
    known: dict[str, Measured] = {}
    if path is None or not path.exists():
        return known
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry: Mapping[str, Any] = json.loads(line)
        except ValueError:
            continue
        depths = Counter(dict(entry["depths"]))
        known[entry["key"]] = Measured(entry["errors"], depths)
    return known
