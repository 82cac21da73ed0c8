"""Costs of a model's passes and of uniform caching, beside what the paper prints."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from caching import PassCosts, Uniform, pass_costs
from configs import InputError
from experiments.model import ModelConfig, model_config
from experiments.paper.paper_tables import PrintedMacs, printed_macs
from experiments.reports.tables import markdown
from experiments.rows.pricing import price
from experiments.runs.run import sampler_of


@dataclass(frozen=True)
class CostConfig:
    """One run of scripts/cost.py."""

    model: str = "mnist32"  # NAME in configs/models, or a YAML file
    steps: int | None = None  # of a trajectory; null: those of the paper's tables about the model, else 100
    intervals: list[int] = field(default_factory=lambda: [2, 3, 5, 10])
    resolution: int | None = None  # side of the network's input; null: the one it was trained at

    def __post_init__(self) -> None:
        if (self.steps is not None and self.steps < 1) or any(interval < 1 for interval in self.intervals):
            raise InputError("steps and intervals must be at least 1")
        if not self.intervals:
            raise InputError("intervals must name at least one, e.g. intervals=[5]")


def report(config: CostConfig) -> str:
    """Two tables: every pass, and (where the paper prints some) the paper's averages beside ours."""
    model = model_config(config.model)
    size = None if config.resolution is None else (config.resolution, config.resolution)
    costs = pass_costs(model.network, size, model.context_length)
    printed = printed_macs(Path(config.model).stem)
    steps = config.steps or (len(sampler_of(printed[0].config).table) if printed else 100)
    lines = [
        f"{config.model}: {model.network.num_branches} skip branches, G MACs for one image",
        "",
        *markdown([_header(config), *_rows(config, model, costs, steps)]),
        "",
        "m: the branch number of the paper's Table 12; r: --branch of the released DDPM code.",
        "split: with what a pass makes of the cached feature alone counted once per refresh (models/split.py).",
        "G MACs: counted as in the paper; products: attention matrix products, which the paper leaves out.",
        f"N = ...: average over {steps} network calls, a full pass every N-th and this branch between.",
    ]
    if config.resolution is None and printed:
        lines += ["", "The paper's figures:", "", *markdown([PAPER_HEADER, *map(_paper_row, printed)])]
        lines += _deviations(printed)
    return "\n".join(lines)


def _header(config: CostConfig) -> list[str]:
    averages = [f"N = {interval}" for interval in config.intervals]
    return ["pass", "m", "r", "G MACs", "split", "of full", "products", *averages]


def _rows(config: CostConfig, model: ModelConfig, costs: PassCosts, steps: int) -> Iterator[list[str]]:
    count = model.paper_macs
    for depth in (None, *range(model.network.num_branches)):
        macs = costs.of(depth)
        averages = [""] * len(config.intervals)
        if depth is not None:
            plans = [Uniform(interval, depth).plan(steps) for interval in config.intervals]
            averages = [f"{costs.average(plan, count) / 1e9:.3f}" for plan in plans]
        yield [
            "full" if depth is None else f"branch {depth}",
            "" if depth is None else str(depth + 1),
            str(depth - 1) if depth else "",
            f"{count(macs) / 1e9:.4f}",
            f"{count(costs.split.of(depth)) / 1e9:.4f}",
            f"{count(macs) / count(costs.full):.1%}",
            f"{macs.attention / 1e9:.4f}",
            *averages,
        ]


PAPER_HEADER = ["table", "N", "branch (m)", "paper", "here", "here - paper"]


def _paper_row(printed: PrintedMacs) -> list[str]:
    policy, here = printed.config.policy, _here(printed)
    branch = f"{policy['branch']} ({policy['branch'] + 1})" if "branch" in policy else "full"
    interval = str(policy.get("interval", 1))
    return [printed.table[5:], interval, branch, f"{printed.macs}", f"{here:.3f}", f"{here - printed.macs:+.3f}"]


def _deviations(printed: Sequence[PrintedMacs]) -> list[str]:
    """Where the paper's own figures do not follow from its networks."""
    off = [f"{p.table}, {p.row}" for p in printed if abs(p.macs - _here(p)) > _rounding(p.macs) + 0.01]
    return ["", f"The paper deviates from its own counting rule at: {'; '.join(off)}."] if off else []


def _here(printed: PrintedMacs) -> float:
    """The same in ours: G MACs, averaged over the steps."""
    return price(printed.config).macs_per_step / 1e9


def _rounding(printed: float) -> float:
    """Half a unit of the last digit that a figure was printed with."""
    digits = len(str(printed).partition(".")[2])
    return 0.5 * 10**-digits
