"""Plots: features over time, plans over time. Network evaluations are counted from 0, as in plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from caching import NULL, Plan
from experiments.planning.drift import Drift


def similarity(drifts: Mapping[int, Drift], timesteps: Sequence[int]) -> Figure:
    """Figure 2 of the paper: the cosine similarity of a branch's features between all pairs of steps, one map per
    branch, and below it between neighbours."""
    figure = Figure(figsize=(3.2 * len(drifts), 5.4), layout="constrained")
    axes = figure.subplots(2, len(drifts), squeeze=False, sharey="row", height_ratios=(3, 2))
    for column, (branch, drift) in enumerate(drifts.items()):
        above, below = axes[:, column]
        image = above.imshow(drift.cosine, vmin=0, vmax=1, cmap="viridis")
        above.set_title(f"what enters up[{branch}]")
        above.set_xlabel("network evaluation")
        above.xaxis.set_major_locator(_whole())
        above.yaxis.set_major_locator(_whole())
        _plot_from_one(below, np.diagonal(drift.cosine, 1))
        if column == 0:
            above.set_ylabel("network evaluation")
            below.set_ylabel("cosine similarity\nto the one before")
    figure.colorbar(image, ax=list(axes[0]), label="cosine similarity", shrink=0.8)
    figure.suptitle(f"Features over {len(timesteps)} evaluations, timesteps {timesteps[0]} to {timesteps[-1]}")
    return figure


def drift(drifts: Mapping[int, Drift]) -> Figure:
    """How much the feature of every branch changes from one evaluation to the next."""
    figure = Figure(figsize=(7, 3.6))
    axes = figure.subplots()
    for i, (branch, of) in enumerate(drifts.items()):
        _plot_from_one(axes, of.neighbours, label=f"branch {branch}", color=_shade(i, len(drifts)))
    axes.set(ylabel="relative change since the one before", yscale="log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda change, _: f"{change:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.legend(fontsize=7, ncols=2)
    return figure


def strips(plans: Mapping[str, Plan]) -> Figure:
    """Plans over time: the deeper an evaluation runs, the taller and darker its bar; null steps are empty."""
    figure = Figure(figsize=(9, 0.7 + 0.65 * len(plans)))
    for axes, (name, plan) in zip(figure.subplots(len(plans), squeeze=False)[:, 0], plans.items(), strict=True):
        depths = sorted({depth for depth in plan if depth is not None})
        heights = [1.0 if depth is None else (depths.index(depth) + 1) / (len(depths) + 1) for depth in plan]
        heights = [0 if depth == NULL else height for depth, height in zip(plan, heights, strict=True)]
        axes.bar(range(len(plan)), heights, width=0.9, color=[_shade(1 - height, 1) for height in heights])
        axes.set(ylim=(0, 1.05), xlim=(-1, len(plan)), yticks=[])
        axes.set_title(name, fontsize=8, loc="left", pad=2)
        axes.tick_params(labelsize=7)
        axes.xaxis.set_major_locator(_whole())
    axes.set_xlabel("network evaluation (tallest: full pass; none: null step)", fontsize=8)
    figure.subplots_adjust(hspace=0.9)
    return figure


def _plot_from_one(axes: Axes, changes: np.ndarray, **style: Any) -> None:
    """A line through what compares every evaluation with the one before: (T-1,), since the first has none."""
    axes.plot(range(1, len(changes) + 1), changes, marker="." if len(changes) == 1 else "", **style)
    axes.set_xlim(0.5, len(changes) + 0.5)
    axes.set_xlabel("network evaluation")
    axes.xaxis.set_major_locator(_whole())


def _whole() -> MaxNLocator:
    """Ticks at network evaluations, of which there are no fractions."""
    return MaxNLocator(nbins=8, integer=True, min_n_ticks=1)


def _shade(i: float, count: int) -> tuple[float, float, float, float]:
    return colormaps["viridis"](i / max(count, 1))
