"""The rows of the frontier: calibrated plans, everything that they must be better than, and ideas of one's own."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import configs
from caching import (
    NULL,
    AdaptivePolicy,
    Explicit,
    Forecaster,
    Lagrange,
    MadeFor,
    NoCache,
    PlanFile,
    Policy,
    Reuse,
    SavedPlan,
    Taylor,
    Uniform,
    check_plan,
    make_forecaster,
    make_policy,
    plan_of,
)
from configs import InputError
from experiments.grid import Strategy, label, strategies
from experiments.model import ModelConfig
from experiments.pipeline import PipelineConfig
from experiments.planning.naming import settings_of, words
from experiments.plugins import code_of
from samplers import DiffusionConfig, Sampler, SamplerConfig

OWN = "yours"
GROUPS = ("fewer steps", "reuse", "forecasts", "adaptive", "null steps", "calibrated", OWN)


@dataclass(frozen=True)
class Contender:
    """One way to sample, for one budget of one setting."""

    setting: SamplerConfig  # whose uncached images are the target
    # MACs that are allowed, as a fraction of the setting's uncached ones; 1 for those themselves. None: of one's own
    # rows, which cost what they cost.
    budget: float | None
    group: str  # what the row is about: one of GROUPS, or "uncached"
    name: str
    sampler: SamplerConfig
    policy: Policy | AdaptivePolicy
    forecaster: Forecaster

    def identity(self, num_evals: int) -> dict[str, Any]:
        """All that the row's figures depend on, besides checkpoint and images."""
        what = asdict(self) | {"forecaster": settings_of(self.forecaster) | code_of(type(self.forecaster))}
        del what["policy"]
        if isinstance(self.policy, AdaptivePolicy):
            return what | {"policy": settings_of(self.policy) | code_of(type(self.policy))}
        return what | {"plan": plan_of(self.policy, num_evals)}


def rows_of(saved: SavedPlan, diffusion: DiffusionConfig) -> Iterator[Contender]:
    """A calibrated plan, and everything that it must be better than at its cost."""
    setting, budget = SamplerConfig(**saved.made_for.sampler), saved.record["budget"]
    full = Sampler(setting, diffusion).num_evals

    def row(
        group: str,
        name: str,
        policy: Policy | AdaptivePolicy,
        forecaster: Forecaster,
        sampler: SamplerConfig = setting,
    ) -> Contender:
        return Contender(setting, budget, group, name, sampler, policy, forecaster)

    yield row("uncached", "uncached", NoCache(), Reuse())
    calls = int(budget * full + 1e-6)
    for name, sampler in fewer_steps(setting, calls).items():
        yield row("fewer steps", f"{sampler.steps} steps of {name}", NoCache(), Reuse(), sampler)
    for compared in saved.record["compared"]:
        policy, forecaster = Explicit(entries=compared["entries"]), make_forecaster(compared["forecaster"])
        group = "reuse" if isinstance(forecaster, Reuse) else "forecasts"
        yield row(group, f"{compared['name']}, {words(forecaster)}", policy, forecaster)
    for tuned in saved.record.get("adaptive", []):
        policy, forecaster = make_policy(tuned["policy"]), make_forecaster(tuned["forecaster"])
        limit = {key: f"{value:.3g}" for key, value in tuned["policy"].items() if key in ("threshold", "bound")}
        name = label({"name": tuned["policy"]["name"], **limit, "branch": policy.branch})
        yield row("adaptive", f"{name}, {words(forecaster)}", policy, forecaster)
    if saved.record["uniform"]:  # a small budget allows none
        interval, branch = saved.record["uniform"]
        name, uniform = f"uniform interval={interval} branch={branch}", Uniform(interval, branch)
        for forecaster in (Lagrange(1), Lagrange(3), Taylor(2), Lagrange(2, "log_snr")):
            yield row("forecasts", f"{name}, {words(forecaster)}", uniform, forecaster)
    null = Explicit(full=sorted({round(full * i / calls) for i in range(calls)}), branch=NULL)
    yield row("null steps", f"null steps between {calls} calls, {words(Lagrange())}", null, Lagrange())
    forecaster = make_forecaster(saved.forecaster)
    yield row("calibrated", f"calibrated, {words(forecaster)}", Explicit(entries=saved.entries), forecaster)


def fewer_steps(setting: SamplerConfig, calls: int) -> dict[str, SamplerConfig]:
    """Deterministic solvers with so many network calls, on the setting's timesteps as nearly as can be."""
    spacing = setting.spacing if setting.spacing in ("quadratic", "fractional") else "leading"  # of exactly those steps
    ddim = SamplerConfig("ddim", calls, spacing, setting.offset, setting.final, clip=setting.clip)
    # DDIM does best nearest to the setting's own timesteps, the others where both ends are visited. (Not timestep 0
    # where trajectories end at its ᾱ: a step from there to there would waste a call.)
    visits_ends = spacing == "leading" and setting.final == "one"
    other = replace(ddim, spacing="fractional", offset=0) if visits_ends else ddim
    solvers = {"DDIM": ddim, "DPM-Solver++ 2M": replace(other, name="dpmpp_2m")}
    if calls > 1:  # PLMS makes one call more than steps
        solvers["PLMS"] = replace(other, name="plms", steps=calls - 1, clip=None)
    return solvers


@dataclass(frozen=True)
class Idea:
    """Something of one's own to be compared, in the words of a sampling configuration: lists of values are several."""

    policy: dict[str, Any]
    forecaster: dict[str, Any] = field(default_factory=lambda: {"name": "auto"})


def own_rows(
    also: Sequence[Any],
    plans: Sequence[SavedPlan],
    model: ModelConfig,
    num_images: int,
    pipeline: PipelineConfig,
) -> Iterator[tuple[Contender, str]]:
    """The rows of one's own ideas in every setting that `plans` are for, each with the sha256 of the setting's weights.
    pipeline: what images are made of; plan files must have been made for the same.

    An idea is left out, with the reason on stderr, where it has no plan: one that lists network calls is for a number
    of them, and a plan file for its own setting. Raises InputError for one that has none anywhere, and for a plan file
    that was calibrated on any of the first `num_images` seeds.
    """
    sources = (plan.made_for for plan in plans)
    settings = dict.fromkeys((SamplerConfig(**source.sampler), source.checkpoint) for source in sources)
    for number, entry in enumerate(also):
        where = f"also[{number}]"
        if not isinstance(entry, Mapping):
            raise InputError(f"{where} must be a mapping {{policy: ..., forecaster: ...}}, not {entry!r}")
        idea, refusals = configs.parse(Idea, entry, where=where), []
        for setting, checkpoint in settings:
            sampler = Sampler(setting, model.diffusion)
            trajectories = pipeline.trajectories(checkpoint, sampler)
            try:
                chosen = strategies(idea.policy, idea.forecaster, sampler)
                for strategy in chosen:
                    _check_fit(strategy, trajectories, model.network.num_branches)
            except InputError as error:
                refusals.append(f"{setting_name(setting)}: {error}")
                continue
            for strategy in chosen:
                if isinstance(strategy.policy, PlanFile):
                    check_seeds(strategy.policy.saved, strategy.policy.file, num_images)
                yield Contender(setting, None, OWN, strategy.name, setting, *strategy[1:3]), checkpoint
        if len(refusals) == len(settings):
            raise InputError(f"{where} fits no setting; {refusals[0]}")
        for refusal in refusals:
            print(f"{where} is left out of {refusal}", file=sys.stderr)


def check_seeds(saved: SavedPlan, file: str, num_images: int) -> None:
    """Raises InputError where a plan was calibrated on seeds that it would be evaluated on."""
    start, stop = saved.record.get("seeds", {}).get("calibration", (num_images, num_images))
    if start < num_images:
        raise InputError(f"{file} was calibrated on seeds {start} to {stop - 1}, which are evaluated here")


def setting_name(setting: SamplerConfig) -> str:
    """A setting as rows hold it, e.g. "ddim 100 uniform"; with what else is not as usual: "…, final=first"."""
    usual = asdict(SamplerConfig(setting.name, setting.steps, setting.spacing))
    others = [f"{key}={value}" for key, value in asdict(setting).items() if value != usual[key]]
    return ", ".join([f"{setting.name} {setting.steps} {setting.spacing}", *others])


def _check_fit(strategy: Strategy, trajectories: MadeFor, num_branches: int) -> None:
    """Raises InputError where a strategy has no plan for these trajectories of a network with so many branches."""
    if isinstance(strategy.policy, PlanFile):
        strategy.policy.check(trajectories)
    if not isinstance(strategy.policy, AdaptivePolicy):
        num_evals = len(trajectories.timesteps)
        check_plan(plan_of(strategy.policy, num_evals), num_evals, num_branches)
