"""Costs of a model's passes and of uniform caching, beside what the paper prints."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from caching import Macs, PassCosts, Uniform, pass_costs
from configs import InputError
from experiments.model import ModelConfig, PaperCosts, model_config
from experiments.tables import markdown


@dataclass(frozen=True)
class CostConfig:
    """One run of scripts/cost.py."""

    model: str = "mnist32"  # NAME in configs/models, or a YAML file
    steps: int = 100  # network evaluations of a trajectory
    intervals: list[int] = field(default_factory=lambda: [2, 3, 5, 10])
    resolution: int | None = None  # side of the network's input; null: the one it was trained at

    def __post_init__(self) -> None:
        if self.steps < 1 or any(interval < 1 for interval in self.intervals):
            raise InputError("steps and intervals must be at least 1")


def report(config: CostConfig) -> str:
    """Two tables: every pass, and (where the paper prints some) the paper's averages beside ours."""
    model = model_config(config.model)
    size = None if config.resolution is None else (config.resolution, config.resolution)
    context_length = model.conditioning.text.length if model.conditioning and model.conditioning.text else 1
    costs = pass_costs(model.network, size, context_length)
    lines = [
        f"{config.model}: {model.network.num_branches} skip branches, G MACs for one image",
        "",
        *markdown([_header(config), *_rows(config, model, costs)]),
        "",
        "m: the branch number of the paper's Table 12; r: --branch of the released DDPM code.",
        "G MACs: counted as in the paper; products: attention matrix products, which the paper leaves out.",
        f"N = ...: average over {config.steps} network calls, a full pass every N-th and this branch between.",
    ]
    if model.paper and config.resolution is None:
        lines += ["", "The paper's figures:", "", *markdown([PAPER_HEADER, *_paper_rows(model.paper, costs)])]
        lines += _deviations(model.paper, costs)
    return "\n".join(lines)


def _header(config: CostConfig) -> list[str]:
    return ["pass", "m", "r", "G MACs", "of full", "products", *(f"N = {interval}" for interval in config.intervals)]


def _rows(config: CostConfig, model: ModelConfig, costs: PassCosts) -> Iterator[list[str]]:
    count = _counting(model.paper)
    for depth in (None, *range(model.network.num_branches)):
        macs = costs.of(depth)
        averages = [""] * len(config.intervals)
        if depth is not None:
            plans = [Uniform(interval, depth).plan(config.steps) for interval in config.intervals]
            averages = [f"{costs.average(plan, count) / 1e9:.3f}" for plan in plans]
        yield [
            "full" if depth is None else f"branch {depth}",
            "" if depth is None else str(depth + 1),
            "" if depth is None or not 0 < depth < model.network.num_branches else str(depth - 1),
            f"{count(macs) / 1e9:.4f}",
            f"{count(macs) / count(costs.full):.1%}",
            f"{macs.attention / 1e9:.4f}",
            *averages,
        ]


PAPER_HEADER = ["table", "N", "branch (m)", "paper", "here", "paper - here"]


def _paper_rows(paper: PaperCosts, costs: PassCosts) -> Iterator[list[str]]:
    here = _counting(paper)(costs.full) / 1e9
    yield ["", "1", "full", f"{paper.full}", f"{here:.3f}", f"{paper.full - here:+.3f}"]
    for row in paper.averages:
        here = _average(paper, row.interval, row.branch, costs)
        branch = f"{row.branch} ({row.branch + 1})"
        yield [str(row.table), str(row.interval), branch, f"{row.macs}", f"{here:.3f}", f"{row.macs - here:+.3f}"]


def _deviations(paper: PaperCosts, costs: PassCosts) -> list[str]:
    """Where the paper's own figures do not follow from its networks."""
    off = [
        f"table {row.table} branch {row.branch}"
        for row in paper.averages
        if abs(row.macs - _average(paper, row.interval, row.branch, costs)) > _rounding(row.macs) + 0.01
    ]
    return ["", f"The paper deviates from its own counting rule at: {', '.join(off)}."] if off else []


def _average(paper: PaperCosts, interval: int, branch: int, costs: PassCosts) -> float:
    return costs.average(Uniform(interval, branch).plan(paper.steps), _counting(paper)) / 1e9


def _rounding(printed: float) -> float:
    """Half a unit of the last digit that a figure was printed with."""
    digits = len(str(printed).partition(".")[2])
    return 0.5 * 10**-digits


def _counting(paper: PaperCosts | None) -> Callable[[Macs], int]:
    group_norms = paper.group_norms if paper else True

    def count(macs: Macs) -> int:
        return macs.paper(group_norms)

    return count
