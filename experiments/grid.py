"""What is compared: policies with their forecasters.

Settings written as lists stand for every combination: interval: [3, 5] and branch: [0, 1] are four policies.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

import configs
from caching import (
    FORECASTERS,
    POLICIES,
    AdaptivePolicy,
    Forecaster,
    NoCache,
    PlanFile,
    Policy,
    Reuse,
    cached_branches,
    full_evals,
    make_forecaster,
    make_policy,
    plan_of,
)
from configs import InputError
from experiments.digest import json_digest
from samplers import Sampler


class Strategy(NamedTuple):
    """One way to run the network: how deep, and with which forecast."""

    name: str
    policy: Policy | AdaptivePolicy
    forecaster: Forecaster
    guided_everywhere: bool = False  # whatever guidance.interval and guidance.every say: nothing is left out


LONGEST = 120  # characters of a folder's name
STEPS = "steps"  # a horizon of as many evaluations as the sampler has steps, as the released code has it
UNCACHED = Strategy("uncached", NoCache(), Reuse(), guided_everywhere=True)


def strategies(policy: Mapping[str, Any], forecaster: Mapping[str, Any], sampler: Sampler) -> list[Strategy]:
    """One strategy per combination of list-valued settings. A plan file brings its own forecaster.

    Raises InputError as make_policy and make_forecaster do, and where `auto` is to fit a plan that does not exist.
    """
    forecasts = expand(forecaster, FORECASTERS)
    for words in forecasts:
        configs.one_of(words["name"], ["auto", *FORECASTERS], "the forecaster")
        if words["name"] == "auto":
            configs.check_keys(words, ["name"], "the forecaster 'auto'")
    made: list[Strategy] = []
    for settings in expand(policy, POLICIES):
        settings = _settled(settings, sampler)
        chosen = make_policy(settings)
        if isinstance(chosen, PlanFile):
            made.append(Strategy(f"plan {Path(chosen.file).stem}", chosen, chosen.forecaster))
            continue
        name = label(_complete(settings, chosen))
        if type(chosen) is NoCache:  # which forecasts nothing
            made.append(Strategy(name, chosen, Reuse()))
            continue
        for words in forecasts:
            words = default_forecaster(chosen, sampler) if words["name"] == "auto" else words
            forecast = make_forecaster(words)
            of_forecast = [] if type(forecast) is Reuse else [label(_complete(words, forecast))]
            made.append(Strategy(" ".join([name, *of_forecast]), chosen, forecast))
    names = [folder_name(strategy.name) for strategy in made]
    if twice := [name for name in names if names.count(name) > 1]:
        raise InputError(f"two of the strategies would share an image folder, {twice[0]}; give each value once, and "
                         "plan files names of their own")  # fmt: skip
    return made


def classes(chosen: Iterable[Strategy]) -> list[type]:
    """The classes of their policies and forecasters, some of which may be the user's own."""
    return [type(part) for strategy in chosen for part in (strategy.policy, strategy.forecaster)]


def default_forecaster(policy: Policy | AdaptivePolicy, sampler: Sampler) -> dict[str, Any]:
    """What `forecaster=auto` means, as the settings of a forecaster.

    Where every step adds fresh noise a feature is partly noise, which extrapolation amplifies: reuse. Along
    deterministic trajectories features are smooth, and the more full passes they are known from, the higher the degree
    that foretells them best, whichever sampler, steps and spacing there are: a line, from 12 on a parabola. The deeper
    a branch, the more it takes: with fewer full passes than its number, reuse; of several branches the outermost
    counts. (Measured on the bundled digits, around one branch: configs/sweeps/default_forecast.yaml)
    """
    if sampler.config.is_stochastic:
        return {"name": "reuse"}
    if isinstance(policy, AdaptivePolicy):
        refreshes, outermost = sampler.num_evals // 3, policy.branch  # how often, it decides on the way
    else:
        plan = plan_of(policy, sampler.num_evals)
        refreshes, outermost = len(full_evals(plan)), min(cached_branches(plan), default=0)
    if refreshes < outermost:
        return {"name": "reuse"}
    return {"name": "lagrange", "order": 1 if refreshes < 12 else 2}


def expand(settings: Mapping[str, Any], known: Mapping[str, type]) -> list[dict[str, Any]]:
    """One mapping per combination of the list-valued settings that are single values in the class of that name."""
    cls = known.get(str(settings.get("name")))
    hints = get_type_hints(cls) if cls else {}
    axes = []
    for key, value in settings.items():
        if value == [] and not _takes_list(hints.get(key)):
            raise InputError(f"{key}=[] leaves nothing to run; give it a value")
        is_axis = isinstance(value, list) and (not _takes_list(hints.get(key)) or _is_lists(value, hints[key]))
        axes.append([(key, item) for item in value] if is_axis else [(key, value)])
    return [dict(combination) for combination in itertools.product(*axes)]


def _settled(settings: Mapping[str, Any], sampler: Sampler) -> dict[str, Any]:
    """A policy's settings, `horizon: steps` as the sampler's own number."""
    return {**settings, "horizon": sampler.config.steps} if settings.get("horizon") == STEPS else dict(settings)


def label(settings: Mapping[str, Any]) -> str:
    """A policy's settings as people write them: "uniform interval=5 branch=2"."""
    words = [f"{key}={_short(value)}" for key, value in settings.items() if key != "name"]
    return " ".join([str(settings.get("name", "none")), *words])


def folder_name(name: str) -> str:
    """A strategy's name, fit for a file system: of a very long one the beginning, and a digest."""
    name = name.replace(" ", "-").replace("=", "").replace("/", "-")
    return name if len(name) <= LONGEST else f"{name[: LONGEST - 9]}-{json_digest(name)[:8]}"


def _complete(settings: Mapping[str, Any], made: Any) -> dict[str, Any]:
    """The settings, and the numbers that the object made from them took where they are silent."""
    values = {each.name: getattr(made, each.name) for each in fields(made) if each.name not in settings}
    return {**settings, **{key: value for key, value in values.items() if type(value) in (int, float)}}


def _short(value: Any) -> str:
    """A value within a name; of a long list its length, and a digest that tells it from others."""
    if not isinstance(value, list):
        return str(value)
    if any(isinstance(item, list) for item in value) or len(value) > 8:
        return f"[{len(value)} entries, {json_digest(value)[:6]}]"
    return ",".join(map(str, value))


def _takes_list(hint: Any) -> bool:
    return any(get_origin(option) is list for option in (hint, *get_args(hint)))


def _is_lists(value: list, hint: Any) -> bool:
    """Are these several values for a setting whose one value is a list of numbers?"""
    of_numbers = any(get_args(option) in ((int,), (float,)) for option in (hint, *get_args(hint)))
    return of_numbers and bool(value) and all(isinstance(item, list) for item in value)
