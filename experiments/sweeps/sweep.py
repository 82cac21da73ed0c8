"""Sweeps: every combination of a grid over the keys of a sampling run.

A combination is one row (experiments/rows): its result is a JSON file, kept and never run again. Combinations that
mean nothing (an interval for a policy that has none) are left out, with the reason; rows that fail are recorded, and
the others go on. What was planned is in OUT/sweep.json, so that the report is made from the folder alone.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import configs
from configs import InputError
from experiments.digest import json_digest
from experiments.grid import classes
from experiments.plugins import words_of
from experiments.rows.judging import Judges
from experiments.rows.measures import MEASURES
from experiments.rows.pricing import only_strategy, price
from experiments.rows.rows import Row, execute, key
from experiments.runs.run import SampleConfig
from experiments.runs.world import join
from experiments.sweeps.sweep_plan import NAME, Point, SweepPlan
from experiments.sweeps.sweep_report import Outcome, render


@dataclass(frozen=True)
class SweepConfig(SampleConfig):
    """One run of scripts/sweep.py: a sampling run, and what of it is varied."""

    policy: dict[str, Any] = field(default_factory=lambda: {"name": "uniform"})
    grid: dict[str, Any] = field(default_factory=dict)  # dotted key -> list of values
    title: str = "Sweep"
    # What the report is about: the first is drawn against cost and time, all are drawn as heat maps.
    metrics: list[str] = field(default_factory=lambda: ["psnr_mean", "theoretical_speedup"])
    data: str | None = None  # real images or their statistics, for distances to them: mnist, FILE.npz, a folder …
    inception: str | None = None  # the weights of FID's network; null: where they are, or their download
    clip: str | None = None  # the network of CLIP scores
    out: str | None = None  # null: outputs/sweeps/, in a folder named after the model and what is swept
    only_render: bool = False  # runs nothing: the report of what there is

    def __post_init__(self) -> None:
        super().__post_init__()
        for metric in self.metrics:
            configs.one_of(metric, MEASURES, "the metric")
        if not self.metrics:
            raise InputError("metrics must name at least one, e.g. metrics=[psnr_mean]")
        if not self.compare:
            raise InputError("a sweep compares every row with its uncached one; leave compare at true")


@dataclass(frozen=True)
class Combination:
    """One point of the grid: a row, or the reason why there is none."""

    at: dict[str, str]  # value of every axis, as text
    row: Row | None
    reason: str = ""


def run(config: SweepConfig) -> Outcome:
    """Runs the rows that have no result yet, one after another, and writes the report. Under torchrun the processes
    share the images of every row, and the first one does the rest.

    Raises InputError where nothing of the grid can be run, and for a device or data that are not there.
    """
    world, out = join(), Path(config.out or default_out(config))
    config = replace(config, out=str(out))
    if not config.only_render:
        device = world.first_then_others(lambda: world.device(config.device))
        judges = Judges(config.data, config.inception, config.clip, str(device))
        judges.check_sources()
        wanted = list(combinations(config))
        world.first(lambda: begin(plan(config, wanted), out))
        execute([each.row for each in wanted if each.row], out, judges=judges)
    return world.first(lambda: render(out))


def default_out(config: SweepConfig) -> str:
    """The folder of a sweep that names none: the same for the same sweep, of whatever device."""
    settings = {name: value for name, value in asdict(config).items() if name not in ("out", "device", "only_render")}
    return f"outputs/sweeps/{Path(config.model).stem}-{json_digest(settings)[:8]}"


def begin(planned: SweepPlan, out: Path) -> None:
    """Writes sweep.json, and says on stderr how much there is to do."""
    planned.save(out)
    left_out = f", combinations left out: {len(planned.left_out)} ({out / NAME} says why)" if planned.left_out else ""
    print(f"rows of the sweep: {len(planned.points)}{left_out}", file=sys.stderr, flush=True)


def combinations(config: SweepConfig) -> Iterator[Combination]:
    """All combinations of the grid, the last axis fastest. Raises InputError where nothing is varied."""
    grid = axes(config.grid)
    if not grid:
        raise InputError("the grid is empty; name what to vary, e.g. grid.policy.interval=[2,3,5]")
    settings = {each.name: getattr(config, each.name) for each in fields(SampleConfig) if each.name != "out"}
    default = asdict(SampleConfig())
    # Only what differs, since every combination is parsed on top of it.
    base = {name: value for name, value in asdict(SampleConfig(**settings)).items() if value != default[name]}
    names: dict[str, str] = {}  # of rows, by what they run
    for values in itertools.product(*grid.values()):
        at = {axis: words(value) for axis, value in zip(grid, values, strict=True)}
        layer: dict[str, Any] = {}
        # Whole policies before settings of theirs, wherever in the grid they stand.
        for axis, value in sorted(zip(grid, values, strict=True), key=lambda pair: pair[0].count(".")):
            _put(layer, axis, value)
        try:
            row = Row(name_of(at), configs.parse(SampleConfig, base, layer, where="the grid"))
            price(row.config)  # refuses a branch or schedule that this network or sampler has not
        except InputError as error:
            yield Combination(at, None, str(error))
            continue
        made = json_digest(asdict(row.config))
        yield Combination(at, None, f"the same as {names[made]}") if made in names else Combination(at, row)
        names.setdefault(made, row.name)


def axes(grid: Mapping[str, Any], prefix: str = "") -> dict[str, list[Any]]:
    """The grid by dotted keys, each with its values: a nested mapping means the same as dotted keys, a single value
    the same as a list of it."""
    found: dict[str, list[Any]] = {}
    for name, value in grid.items():
        if isinstance(value, Mapping):
            found |= axes(value, f"{prefix}{name}.")
        else:
            found[f"{prefix}{name}"] = list(value) if isinstance(value, list) else [value]
    for axis, values in found.items():
        if not values:
            raise InputError(f"the grid has no values for {axis}")
    return found


def words(value: Any) -> str:
    """A value of an axis, as text: of a mapping its name and all its settings."""
    if not isinstance(value, Mapping):
        return str(value)
    settings = [f"{key}={setting}" for key, setting in value.items() if key != "name"]
    return " ".join([*filter(None, [value.get("name")]), *settings])


def name_of(at: Mapping[str, str]) -> str:
    """A row's name: "interval=3 branch=1"; settings that are mappings speak for themselves."""
    last = [axis.rpartition(".")[2] for axis in at]
    short = {axis: name if last.count(name) == 1 else axis for axis, name in zip(at, last, strict=True)}
    return " ".join(value if axis in WHOLE else f"{short[axis]}={value}" for axis, value in at.items())


WHOLE = ("policy", "forecaster")  # axes whose values are names with settings


def plan(config: SweepConfig, wanted: list[Combination]) -> SweepPlan:
    """What will be run, with the name of every result. Raises InputError where there is no row, or none with a
    checkpoint."""
    points = [_point(each.row, each.at) for each in wanted if each.row]
    if not points:
        raise InputError(f"no combination of the grid can be run; the first: {wanted[0].reason}")
    if all(point.error for point in points):
        raise InputError(points[0].error)
    settings = {name: value for name, value in asdict(config).items() if name != "only_render"}
    left_out = [Point(name_of(each.at), each.at, error=each.reason) for each in wanted if not each.row]
    values = {axis: list(dict.fromkeys(map(words, values))) for axis, values in axes(config.grid).items()}
    imports = words_of(*classes(only_strategy(each.row.config) for each in wanted if each.row))
    return SweepPlan(config.title, values, list(config.metrics), points, left_out, settings, imports)


def _point(row: Row, at: Mapping[str, str]) -> Point:
    try:
        return Point(row.name, dict(at), key(row), key(row.uncached))
    except InputError as error:
        return Point(row.name, dict(at), error=str(error))


def _put(layer: dict[str, Any], axis: str, value: Any) -> None:
    """Sets layer["a"]["b"] for the axis "a.b"."""
    *path, last = axis.split(".")
    for name in path:
        if not isinstance(layer.get(name), dict):
            layer[name] = {"name": layer[name]} if isinstance(layer.get(name), str) else {}
        layer = layer[name]
    layer[last] = dict(value) if isinstance(value, Mapping) else value
