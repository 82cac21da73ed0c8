"""The search of a calibration: regular plans, small changes to the best, fitted weights; and its baselines."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from tqdm import tqdm

from caching import (
    FORECASTERS,
    NULL,
    Budget,
    Forecaster,
    Lagrange,
    Nonuniform,
    Plan,
    PlanFile,
    Reuse,
    Uniform,
    cached_branches,
    drift_threshold,
    full_evals,
    least_drift,
    make_forecaster,
    neighbour,
    partial_between,
    plan_of,
    shapes,
)
from configs import InputError
from experiments.grid import expand, strategies
from experiments.pipeline import Pipeline
from experiments.planning.drift import measure_drift
from experiments.planning.end_error import EndError, mean_psnr
from experiments.planning.fitting import fit
from experiments.planning.naming import settings_of
from experiments.planning.tuning import check_uncompiled
from experiments.runs.batch_size import AUTO
from experiments.runs.run import SampleConfig
from samplers import Sampler


@dataclass(frozen=True)
class CalibrateConfig(SampleConfig):
    """One run of scripts/calibrate.py: a sampling run, and what a plan for it may cost.

    What is sought is a policy and its forecaster; where no budget is given it is the cost of the policy that is.
    """

    UNUSED: ClassVar = ("forecaster", "num_images", "seed", "compare", "storage", "out")

    budget: float | None = None  # MACs as a fraction of the uncached ones
    branches: list[int] | None = None  # candidates, -1 for null steps; null: -1 to 3, as far as the network has them
    # Forecasts of your own that are tried beside the built-in ones: names, or mappings with their settings, of which
    # lists of values are several.
    forecasters: list[Any] = field(default_factory=list)
    seeds: int = 24  # calibration images, from first_seed on, and as many again to check the result on
    first_seed: int = 1_000_000  # far from those that images are usually made from
    screening: int = 8  # seeds on which the regular plans are compared first, or all where there are fewer
    trials: int = 30  # changes of the best plan that are tried
    search_seed: int = 0
    plan: str | None = None  # where the plan goes; null: plans/, named after model, sampler and budget

    def __post_init__(self) -> None:
        super().__post_init__()
        check_uncompiled(self)
        for name in ("seeds", "screening"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.branches == []:
            raise InputError("branches must name at least one candidate")
        if self.trials < 0:
            raise InputError(f"trials must be at least 0, not {self.trials}")
        if self.batch_size == AUTO:
            raise InputError("calibration wants a batch_size in images, not auto")
        if self.plan is not None and not self.plan.endswith(".json"):
            raise InputError(f"a plan's name ends in .json, by which it is known; not {self.plan}")


class Trial(NamedTuple):
    """A plan with its forecaster, measured."""

    name: str
    plan: Plan
    forecaster: Forecaster
    psnr: float  # mean over the seeds it was measured on

    def record(self) -> dict[str, Any]:
        """As a plan file holds it."""
        return {
            "name": self.name,
            "entries": list(self.plan),
            "forecaster": settings_of(self.forecaster),
            "psnr": self.psnr,
        }


class Found(NamedTuple):
    """What a search has measured in the end."""

    best: Trial
    baselines: list[Trial]
    own: list[Trial]  # the plan that was sought, with each of the user's own forecasts


STAYS = "the plan that was there"
CLOSED_FORMS = (Reuse(), Lagrange(1), Lagrange(2), Lagrange(3), Lagrange(1, "log_snr"), Lagrange(2, "log_snr"))
WARPS = (0.85, 1.15)
FINALISTS = 3  # plans that few seeds leave for all of them to decide between
RIDGES = (1e-3, 1e-2)


def own_forecasters(entries: Sequence[Any]) -> Iterator[Forecaster]:
    """Those that the key `forecasters` means. Raises InputError for what is none."""
    for entry in entries:
        if not isinstance(entry, str | Mapping):
            raise InputError(f"forecasters lists names, or mappings with a name and settings, not {entry!r}")
        settings = {"name": entry} if isinstance(entry, str) else entry
        yield from map(make_forecaster, expand(settings, FORECASTERS))


def candidates(branches: Sequence[int] | None, num_branches: int) -> list[int]:
    """The branches that plans may enter at. Raises InputError for one that the network does not have."""
    if branches is None:
        return list(range(NULL, min(4, num_branches)))
    for branch in branches:
        if not NULL <= branch < num_branches:
            raise InputError(f"branch {branch} does not exist; this network has branches 0 (outermost) to "
                             f"{num_branches - 1}, and {NULL} for null steps")  # fmt: skip
    return list(branches)


class Search:
    """The search of one calibration. Raises InputError for forecasters and branches that do not exist."""

    def __init__(
        self, config: CalibrateConfig, pipeline: Pipeline, sampler: Sampler, error: EndError, budget: Budget
    ) -> None:
        self.config, self.pipeline, self.sampler = config, pipeline, sampler
        self.error, self.budget = error, budget
        self.branches = candidates(config.branches, pipeline.unet.num_branches)
        self.forecasters = (*CLOSED_FORMS, *own_forecasters(config.forecasters))
        self.measured = 0

    def run(self, there: PlanFile | None = None) -> Found:
        """The best of the plan that is sought, that which is `there` already, and all that they are compared with."""
        sought = self.sought()
        stays = [] if there is None else [self.measure(STAYS, there.saved.plan, there.forecaster)]
        baselines, own = list(self.baselines()), list(self.with_own_forecasters(sought))
        allowed = [trial for trial in (sought, *stays, *own, *baselines) if self.allows(trial.plan)]
        return Found(max(allowed, key=lambda trial: trial.psnr), baselines, own)

    def sought(self) -> Trial:
        return self.fitted(self.improve(self.screen()))

    def screen(self) -> list[Trial]:
        """The best regular plans on few seeds, each with its best forecast."""
        evals = self.sampler.num_evals
        regular = {shape: plan for shape in shapes(evals, self.branches) if (plan := shape.largest(evals, self.budget))}
        if not regular:
            cheaper = "" if NULL in self.branches else f", or {NULL} among the branches"
            raise InputError(f"a budget of {self.budget.limit:.1%} of the uncached MACs allows no plan at branches "
                             f"{self.branches}; give a larger one{cheaper}")  # fmt: skip
        # A plan that is poor with one forecast is poor with all of them: only the best are tried with every one, and
        # the uniform one and that of the policy whose cost is the budget, than which nothing should come out worse.
        trials = self.compare("regular plans", [(plan, Lagrange()) for plan in dict.fromkeys(regular.values())])
        tried = [trial.plan for trial in trials[:5]]
        published = [Uniform(*self.uniform).plan(evals)] if self.uniform else []
        for plan in (*published, *self.given.values()):
            if plan not in tried and self.allows(plan):
                tried.append(plan)
        trials += self.compare("forecasts", list(itertools.product(tried, self.forecasters)))
        trials.sort(key=lambda trial: -trial.psnr)
        # Where passes fall against the last evaluations matters more than how many there are.
        others = []
        for trial in trials[:3]:
            shape = next((shape for shape, plan in regular.items() if plan == trial.plan), None)
            if shape is None:  # the uniform plan, or the given one
                continue
            full = len(full_evals(trial.plan))
            nearby = [shape.plan(evals, full - less) for less in (1, 2, 3) if full > less]
            nearby += [shape._replace(warp=warp).largest(evals, self.budget) for warp in WARPS]
            others += [(plan, trial.forecaster) for plan in nearby if plan]
        trials = sorted(trials + self.compare("variants", others), key=lambda trial: trial.psnr)
        by_plan = {trial.plan: trial for trial in trials}  # the best of each plan comes last, and stays
        return sorted(by_plan.values(), key=lambda trial: -trial.psnr)[:FINALISTS]

    def compare(self, what: str, candidates: Sequence[tuple[Plan, Forecaster]]) -> list[Trial]:
        """Measured on few seeds, the best first."""
        with tqdm(candidates, unit="plan", desc=what) as bar:
            trials = [self.measure("regular", *candidate, self.config.screening) for candidate in bar]
        return sorted(trials, key=lambda trial: -trial.psnr)

    def improve(self, finalists: Sequence[Trial]) -> Trial:
        """Small changes to the best of the finalists, kept where they help on all seeds."""
        rng = random.Random(self.config.search_seed)
        measured = [self.measure("calibrated", trial.plan, trial.forecaster) for trial in finalists]
        best = max(measured, key=lambda trial: trial.psnr)
        with tqdm(range(self.config.trials), unit="plan", desc="improving") as bar:
            for _ in bar:
                plan = neighbour(best.plan, self.budget, self.branches, rng)
                if plan is None:
                    break
                trial = self.measure("calibrated", plan, best.forecaster)
                if trial.psnr > best.psnr:
                    best = trial
                bar.set_postfix(psnr=f"{best.psnr:.2f} dB")
        return best

    def fitted(self, best: Trial) -> Trial:
        """Fitted weights, where they help more than the closed form they start from."""
        if isinstance(best.forecaster, Reuse) or self.pipeline.is_guided or self.pipeline.config.split:
            return best  # nothing to fit, or features that the fitted network does not make
        for ridge in RIDGES:
            weights = fit(self.pipeline, self.sampler, best.plan, best.forecaster, self.error.seeds,
                          self.config.batch_size, ridge)  # fmt: skip
            trial = self.measure("calibrated, fitted", best.plan, weights)
            best = max(best, trial, key=lambda trial: trial.psnr)
        return best

    def with_own_forecasters(self, best: Trial) -> Iterator[Trial]:
        """The best plan with each of the user's own forecasts: what they are worth beside its own."""
        for forecaster in own_forecasters(self.config.forecasters):
            if forecaster != best.forecaster:
                yield self.measure(best.name, best.plan, forecaster)

    def baselines(self) -> Iterator[Trial]:
        """The policy whose cost is the budget, and published schedules at the same cost with the forecast they were
        published with: reuse."""
        evals = self.sampler.num_evals
        for name, plan in self.given.items():
            for forecaster in (Reuse(), Lagrange()):
                yield self.measure(name, plan, forecaster)
        if self.uniform is None:
            return
        interval, branch = self.uniform
        count = len(range(0, evals, interval))
        name, uniform = f"uniform interval={interval} branch={branch}", Uniform(interval, branch).plan(evals)
        if uniform not in self.given.values():
            for forecaster in (Reuse(), Lagrange()):
                yield self.measure(name, uniform, forecaster)
        if quad_centre := self.quad_centre(interval, branch):
            yield quad_centre
        drift = measure_drift(self.pipeline, self.sampler, [branch], self.error.seeds[:4])[branch]
        for name, full in (
            ("drift threshold", drift_threshold(drift.relative, count)),
            ("feature L1 (CacheQuant)", least_drift(drift.l1, count)),
        ):
            yield self.measure(f"{name} branch={branch}", partial_between(full, branch, evals), Reuse())

    @cached_property
    def given(self) -> dict[str, Plan]:
        """The plan of the policy whose cost is the budget, by its name; none where the budget is a number."""
        if self.config.budget is not None:
            return {}
        strategy = strategies(self.config.policy, {"name": "reuse"}, self.sampler)[0]
        return {strategy.name: plan_of(strategy.policy, self.sampler.num_evals)}

    @cached_property
    def uniform(self) -> tuple[int, int] | None:
        """Interval and branch of the uniform plan that costs no more: the paper's, that all is measured against. Around
        branch 1 or, where the budget is too small for it, further out; None where it allows null steps alone."""
        evals, inner = self.sampler.num_evals, max(0, *self.branches)
        for branch in range(1 if 1 in self.branches else inner, NULL, -1):
            for interval in range(1, evals + 1):
                if self.budget.allows(Uniform(interval, branch).plan(evals)):
                    return interval, branch
        return None

    def allows(self, plan: Plan) -> bool:
        """Is it one that may be found: within the budget, at the candidate branches?"""
        return self.budget.allows(plan) and set(cached_branches(plan)) <= set(self.branches)

    def quad_centre(self, interval: int, branch: int) -> Trial | None:
        """The paper's non-uniform schedule, centre and power tuned on few seeds; None where it has none."""
        evals, trials = self.sampler.num_evals, []
        settings = list(itertools.product((0.1, 0.3, 0.5, 0.7, 0.9), (1.2, 1.4, 2.0)))
        for center, power in tqdm(settings, unit="plan", desc="quad-centre"):
            policy = Nonuniform(interval, branch, int(center * evals), power)
            try:
                plan = policy.plan(evals)
            except InputError:  # there is no such schedule
                continue
            name = f"nonuniform center={policy.center} power={power} branch={branch}"
            trials.append(self.measure(name, plan, Reuse(), self.config.screening))
        best = max(trials, key=lambda trial: trial.psnr, default=None)
        return best and self.measure(best.name, best.plan, Reuse())

    def measure(self, name: str, plan: Plan, forecaster: Forecaster, count: int | None = None) -> Trial:
        self.measured += 1
        return Trial(name, plan, forecaster, mean_psnr(self.error(plan, forecaster, count)))
