"""Plans in files: what calibration found, with all that it was found for."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import configs
from caching.adaptive import AdaptivePolicy
from caching.forecast import FORECASTERS, Forecaster, make_forecaster
from caching.plan import Plan, as_plan
from caching.policies import POLICIES, Policy, register
from configs import InputError
from models.files import write_text

FORMAT = "plan/1"


@dataclass(frozen=True)
class MadeFor:
    """The trajectories a plan was calibrated on: only there do its errors hold."""

    checkpoint: str  # sha256 of the weights; "" for random ones
    sampler: dict[str, Any]  # its configuration
    timesteps: list[int]  # of every network evaluation
    pipeline: dict[str, Any]  # what else they depend on, by dotted key: noise schedule, guidance, size, split

    def check(self, ours: MadeFor) -> None:
        """Raises InputError where weights, sampler, timesteps or the rest are others."""
        if self.checkpoint != ours.checkpoint:
            raise InputError(f"it was made for the weights with sha256 {self.checkpoint[:12] or '(random)'}, not for "
                             f"{ours.checkpoint[:12] or '(random)'}; calibrate one for these")  # fmt: skip
        there, here = self._settings(), ours._settings()
        changed = [key for key in here if there.get(key) != here[key]]
        if changed:
            key = changed[0]
            raise InputError(f"it was made for {key}={there.get(key)}, not {here[key]}; sample with its settings, or "
                             "calibrate one for these")  # fmt: skip
        if self.timesteps != ours.timesteps:
            raise InputError("it was made for other timesteps; calibrate one for this noise schedule")

    def _settings(self) -> dict[str, Any]:
        """By dotted key, as a file holds them: tuples are lists there."""
        settings = {f"sampler.{key}": value for key, value in self.sampler.items()} | self.pipeline
        return json.loads(json.dumps(settings))


@dataclass(frozen=True)
class SavedPlan:
    """A plan, the forecaster it was made with, and what it was made for."""

    entries: list[Any]  # one per network evaluation: null (full), a branch, or -1 (a null step)
    forecaster: dict[str, Any]
    made_for: MadeFor
    record: dict[str, Any] = field(default_factory=dict)  # how it was found: seeds, errors, MACs

    def __post_init__(self) -> None:
        as_plan(self.entries)
        evals = len(self.made_for.timesteps)
        if len(self.entries) != evals:
            raise InputError(f"the plan has {len(self.entries)} entries for {evals} network evaluations")

    @property
    def plan(self) -> Plan:
        return tuple(self.entries)

    def save(self, path: str | Path) -> None:
        fields = {"format": FORMAT} | asdict(self)
        text = "{\n" + ",\n".join(f" {json.dumps(key)}: {json.dumps(value)}" for key, value in fields.items()) + "\n}\n"
        write_text(Path(path), text)


def load_plan(path: str | Path) -> SavedPlan:
    """Raises InputError for a file that is missing, damaged, or no plan."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no plan file {path}; scripts/calibrate.py writes them") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged or not a plan file ({error})") from error
    if not isinstance(content, dict) or content.pop("format", None) != FORMAT:
        raise InputError(f"{path} is not a plan file of scripts/calibrate.py")
    try:
        plan = configs.parse(SavedPlan, content, where="it")
        make_forecaster(plan.forecaster)
    except InputError as error:
        own = isinstance(content.get("forecaster"), dict) and content["forecaster"].get("name") not in FORECASTERS
        hint = " (one of your own is known after import=FILE.py)" if own else ""
        raise InputError(f"{path} is no plan that can be used: {error}{hint}") from error
    return plan


@register("plan")
@dataclass(frozen=True)
class PlanFile:
    """The plan in a file that scripts/calibrate.py wrote, with the forecaster it was calibrated with."""

    file: str

    @cached_property
    def saved(self) -> SavedPlan:
        return load_plan(self.file)

    @cached_property
    def forecaster(self) -> Forecaster:
        return make_forecaster(self.saved.forecaster)

    def plan(self, num_evals: int) -> Plan:
        if len(self.saved.plan) != num_evals:
            raise InputError(f"{self.file} is a plan of {len(self.saved.plan)} network evaluations, but the sampler "
                             f"makes {num_evals}")  # fmt: skip
        return self.saved.plan

    def check(self, trajectories: MadeFor) -> None:
        """As MadeFor.check, naming the file."""
        try:
            self.saved.made_for.check(trajectories)
        except InputError as error:
            raise InputError(f"{self.file} does not fit: {error}") from error


def make_policy(settings: Mapping[str, Any]) -> Policy | AdaptivePolicy:
    """The policy of a mapping with its `name` and its fields. A name that ends with .json is a plan file: short for
    name=plan file=NAME. Raises InputError as Registry.make does."""
    name = str(settings.get("name"))
    if name.endswith(".json"):
        settings = {**settings, "name": "plan", "file": name}
    return POLICIES.make(settings)
