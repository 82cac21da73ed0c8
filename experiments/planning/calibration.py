"""Calibration: the plan and forecast that end nearest to the uncached images, for a given cost."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caching import (
    AdaptivePolicy,
    Budget,
    PlanFile,
    SavedPlan,
    check_plan,
    describe,
    plan_of,
)
from configs import InputError
from experiments.digest import json_digest
from experiments.grid import label, strategies
from experiments.images import save_figure
from experiments.model import model_config, pick_device
from experiments.pipeline import Pipeline, load_pipeline
from experiments.planning import pictures
from experiments.planning.end_error import EndError, mean_psnr
from experiments.planning.naming import settings_of, words
from experiments.planning.search import CalibrateConfig, Search, Trial
from experiments.planning.tuning import Tuned, tuned
from experiments.plugins import words_of
from experiments.reports.tables import markdown
from experiments.runs.run import SampleConfig, sampler_of
from samplers import Sampler


@dataclass(frozen=True)
class Calibration:
    """What was found, and what it was compared with."""

    path: Path
    best: Trial
    checked: float  # PSNR of the best on seeds that no decision has seen
    rows: list[tuple[Trial, float]]  # with the price of each, the best last
    adaptive: list[Tuned]

    def __str__(self) -> str:
        table = [["plan", "forecaster", "MACs", "PSNR"]]
        rows = [(trial.name, trial.forecaster, price, trial.psnr) for trial, price in self.rows]
        rows += [(label(tuned.record()["policy"]), *tuned[1:]) for tuned in self.adaptive]
        for name, forecaster, price, psnr in rows:
            table.append([name, words(forecaster), f"{price:.1%}", f"{psnr:.2f}"])
        known = "".join(f"{word} " for word in words_of(type(self.best.forecaster)))
        return "\n".join(
            [
                *markdown(table),
                "",
                "MACs: of the uncached ones. PSNR (dB): mean over the calibration images, to the uncached images.",
                f"On as many fresh seeds: {self.checked:.2f} dB.",
                f"plan: {describe(self.best.plan)}",
                f"written to {self.path}; use it with scripts/sample.py {known}policy={self.path}",
                f"and compare it with everything else by scripts/frontier.py {known}"
                f"plans={self.path.parent} out=outputs/frontier",
            ]
        )


def calibrate(config: CalibrateConfig) -> Calibration:
    """Searches a plan for one sampling configuration under a budget of MACs, and writes it.

    First the regular plans (full passes evenly spaced or crowded to one end, around one branch or layered, null
    steps between or not), the best of them with every closed-form forecaster and config.forecasters, on few seeds;
    then the best few, and small changes to the best, on all seeds; then fitted weights. Every decision is made on the
    end error of the cached trajectory itself.

    A plan that is there already, from a shorter search, say, stays unless what is found ends nearer.

    Raises InputError for what SampleConfig refuses, for forecasters that do not exist, where the budget allows no plan,
    and where the file of the plan holds anything but one for these settings.
    """
    sampler = sampler_of(config)
    pipeline = load_pipeline(config.checkpoint, config.model, config, pick_device(config.device))
    budget = budget_of(config, pipeline, sampler)
    path = Path(config.plan or f"plans/{default_name(config, budget.limit)}.json")
    seeds = range(config.first_seed, config.first_seed + config.seeds)
    error = EndError(pipeline, sampler, seeds, config.batch_size, path.with_suffix(".trials.jsonl"))
    trajectories = config.trajectories(pipeline.parts.trajectory_sha256, sampler)
    there = PlanFile(str(path)) if path.exists() else None
    if there is not None:
        there.check(trajectories)
    search = Search(config, pipeline, sampler, error, budget)
    best, baselines, own = search.run(there)
    adaptive = []
    if search.uniform is not None:
        interval, branch = search.uniform
        adaptive = list(tuned(error, budget, branch, interval, config.screening))

    fresh = range(seeds.stop, seeds.stop + config.seeds)
    check = EndError(pipeline, sampler, fresh, config.batch_size, error.journal)
    checked = mean_psnr(check(best.plan, best.forecaster))
    SavedPlan(
        entries=list(best.plan),
        forecaster=settings_of(best.forecaster),
        made_for=trajectories,
        record={
            "model": Path(config.model).stem,
            "price": budget.price(best.plan),
            "budget": budget.limit,
            "psnr": {"calibration": best.psnr, "fresh": checked},
            "seeds": {"calibration": [seeds.start, seeds.stop], "fresh": [fresh.start, fresh.stop]},
            "trials": search.measured,
            "uniform": search.uniform,
            "compared": [trial.record() for trial in baselines],
            "adaptive": [policy.record() for policy in adaptive],
        },
    ).save(path)
    rows = [*baselines, best]
    compared = {f"{trial.name}, {trial.psnr:.1f} dB": trial.plan for trial in rows}
    save_figure(pictures.strips(compared), path.with_suffix(".png"))
    priced = [(trial, budget.price(trial.plan)) for trial in (*own, *rows)]
    return Calibration(path, best, checked, priced, adaptive)


def budget_of(config: CalibrateConfig, pipeline: Pipeline, sampler: Sampler) -> Budget:
    """What a plan may cost: as said, else what the policy costs. Raises InputError where that shows during sampling
    alone, and for a policy that has no plan for this network."""
    costs = pipeline.costs()
    if config.budget is not None:
        return Budget(costs, config.budget)
    policy = strategies(config.policy, {"name": "reuse"}, sampler)[0].policy
    if isinstance(policy, AdaptivePolicy):
        raise InputError(f"what {config.policy['name']} costs shows during sampling alone; name a budget, e.g. "
                         "budget=0.35")  # fmt: skip
    plan = plan_of(policy, sampler.num_evals)
    check_plan(plan, sampler.num_evals, pipeline.unet.num_branches)
    return Budget(costs, 1 / costs.speedup(plan))


def default_name(config: CalibrateConfig, budget: float) -> str:
    """A plan's name: of its model, sampler and budget; where anything else is not as usual, with a digest of it."""
    sampler, schedule = config.sampler, model_config(config.model).diffusion
    ours, usual = (each.trajectories("", Sampler(each.sampler, schedule)) for each in (config, SampleConfig()))
    usually = usual.sampler | usual.pipeline | {key: getattr(sampler, key) for key in ("name", "steps", "spacing")}
    rest = {key: value for key, value in (ours.sampler | ours.pipeline).items() if value != usually[key]}
    parts = [Path(config.model).stem, f"{sampler.name}{sampler.steps}", sampler.spacing, f"{budget:.3f}"]
    return "-".join([*parts, *[json_digest(rest)[:8]] * bool(rest)])
