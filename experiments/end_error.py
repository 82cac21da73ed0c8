"""The true end error: how far cached trajectories end from the uncached ones of the same seeds."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from caching import FORECASTERS, Explicit, Forecaster, Plan
from experiments.grid import UNCACHED, Strategy
from experiments.pipeline import Pipeline
from experiments.sampling import Run, batches, sample_batch
from samplers import Sampler


def final_states(
    pipeline: Pipeline, sampler: Sampler, strategy: Strategy, seeds: Sequence[int], batch_size: int, bar: tqdm
) -> Tensor:
    """One trajectory per seed -> the final states (N, C, h, w), on the CPU; pixels clipped to [-1, 1]."""
    run = Run(strategy.name, pipeline.cached(strategy))
    x = torch.cat([sample_batch(pipeline, sampler, run, part, bar).cpu() for part in batches(seeds, batch_size)])
    return x if pipeline.parts.first_stage else x.clamp(-1, 1)


def squared_errors(x: Tensor, reference: Tensor) -> list[float]:
    """Mean squared error of each image (N, C, H, W) in [-1, 1], on the scale of [0, 1]; at least 1e-12, for the
    logarithm."""
    return ((x - reference) / 2).double().square().flatten(1).mean(1).clamp_min(1e-12).tolist()


def mean_psnr(errors: Sequence[float]) -> float:
    """The mean over images of -10 log10(mse), in dB. For latents the same number, though they have no peak."""
    return float(-10 * np.log10(np.asarray(errors)).mean())


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
            "checkpoint": pipeline.unet.provenance.sha256,
            "pipeline": asdict(pipeline.config),
            "sampler": asdict(sampler.config),
            "timesteps": sampler.eval_timesteps,
        }
        self._known = _read_journal(journal)
        self._reference: Tensor | None = None

    def __call__(self, plan: Plan, forecaster: Forecaster, count: int | None = None) -> list[float]:
        """The squared errors of the first `count` seeds' images (None: all of them)."""
        seeds = self.seeds[:count]
        key = self._key(plan, forecaster, seeds)
        if key not in self._known:
            x = self._sample(Strategy("plan", Explicit(entries=list(plan)), forecaster), seeds)
            self._remember(key, squared_errors(x, self.reference(len(seeds))))
        return self._known[key]

    def reference(self, count: int) -> Tensor:
        """The final states without a cache of the first `count` seeds."""
        done = 0 if self._reference is None else len(self._reference)
        if done < count:
            more = self._sample(UNCACHED, self.seeds[done:count])
            self._reference = more if self._reference is None else torch.cat([self._reference, more])
        return self._reference[:count]

    def _sample(self, strategy: Strategy, seeds: Sequence[int]) -> Tensor:
        with tqdm(disable=True) as bar:
            return final_states(self.pipeline, self.sampler, strategy, seeds, self.batch_size, bar)

    def _key(self, plan: Plan, forecaster: Forecaster, seeds: Sequence[int]) -> str:
        what = {**self._identity, "plan": plan, "forecaster": describe_forecaster(forecaster), "seeds": seeds}
        return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:24]

    def _remember(self, key: str, errors: list[float]) -> None:
        self._known[key] = errors
        if self.journal is not None:
            self.journal.parent.mkdir(parents=True, exist_ok=True)
            with self.journal.open("a", encoding="utf-8") as file:
                # The line break comes first: it ends whatever a killed run left unfinished.
                file.write("\n" + json.dumps({"key": key, "errors": errors}))


def describe_forecaster(forecaster: Forecaster) -> dict[str, Any]:
    """A forecaster's settings as a configuration holds them."""

    name = next(name for name, cls in FORECASTERS.items() if cls is type(forecaster))
    return {"name": name, **asdict(forecaster)}


def _read_journal(path: Path | None) -> dict[str, list[float]]:
    """What was measured before; a line that a killed run left unfinished is left out."""
    known: dict[str, list[float]] = {}
    if path is None or not path.exists():
        return known
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            entry: Mapping[str, Any] = json.loads(line)
        except ValueError:
            continue
        known[entry["key"]] = entry["errors"]
    return known
