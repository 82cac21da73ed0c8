"""Plots: features over time, plans over time, error against cost. Each is drawn from results alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from caching import NULL, Plan
from experiments.planning.drift import Drift


def similarity(drifts: Mapping[int, Drift], timesteps: Sequence[int]) -> Figure:
    """Figure 2 of the paper: the cosine similarity of a branch's features between all pairs of steps, one map per
    branch, and below it between neighbours."""
    figure = Figure(figsize=(3.2 * len(drifts), 5.4))
    axes = figure.subplots(2, len(drifts), squeeze=False, height_ratios=(3, 2))
    for column, (branch, drift) in enumerate(drifts.items()):
        above, below = axes[:, column]
        image = above.imshow(drift.cosine, vmin=0, vmax=1, cmap="viridis")
        above.set_title(f"what enters up[{branch}]")
        above.set_xlabel("network evaluation")
        below.plot(np.diagonal(drift.cosine, 1))
        below.set_xlabel("network evaluation")
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
        axes.plot(of.neighbours, label=f"branch {branch}", color=_shade(i, len(drifts)))
    axes.set(xlabel="network evaluation", ylabel="relative change since the one before", yscale="log")
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
    axes.set_xlabel("network evaluation (tallest: full pass; none: null step)", fontsize=8)
    figure.subplots_adjust(hspace=0.9)
    return figure


COLOURS = {
    "fewer steps": "tab:red",
    "reuse": "tab:gray",
    "forecasts": "tab:blue",
    "adaptive": "tab:purple",
    "null steps": "tab:orange",
    "calibrated": "tab:green",
}


def frontier(results: Sequence[Mapping[str, Any]]) -> Figure:
    """Error against MACs: one panel per setting, one colour per group of rows, calibrated plans joined by a line."""
    settings = list(dict.fromkeys(result["setting"] for result in results))
    figure = Figure(figsize=(4.4 * len(settings), 4.2))
    panels = figure.subplots(1, len(settings), squeeze=False)[0]
    for axes, setting in zip(panels, settings, strict=True):
        _frontier_panel(axes, [result for result in results if result["setting"] == setting])
        axes.set_title(setting)
    panels[0].set_ylabel("PSNR to the uncached images (dB)")
    handles, labels = panels[0].get_legend_handles_labels()  # below the panels, where they hide no point
    figure.legend(handles, labels, loc="upper center", ncols=len(labels), bbox_to_anchor=(0.5, 0))
    return figure


def _frontier_panel(axes: Axes, results: Sequence[Mapping[str, Any]]) -> None:
    for group, colour in COLOURS.items():
        points = sorted((row["macs"], row["psnr"]) for row in results if row["group"] == group)
        style = "o-" if group == "calibrated" else "x"
        axes.plot([x for x, _ in points], [y for _, y in points], style, color=colour, label=group, markersize=5)
    axes.set_xlabel("MACs of the uncached trajectory")
    axes.grid(alpha=0.3)


def _shade(i: float, count: int) -> tuple[float, float, float, float]:
    return colormaps["viridis"](i / max(count, 1))
