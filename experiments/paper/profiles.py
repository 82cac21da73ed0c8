"""Plots of a paper's table: every figure along its rows, ours and the paper's."""

from __future__ import annotations

import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.paper.filling import FilledRow
from experiments.paper.paper_tables import Column
from experiments.rows.charts import CATEGORIES

PLOTTED = ("fid", "clip_score", "psnr", "speedup", "macs")  # metrics, the first that there are
PANELS = 3
PAPER = "#888888"


def profiles(
    columns: Sequence[Column], names: Sequence[str], rows: Sequence[FilledRow], comparable: bool
) -> Figure | None:
    """One panel per figure that at least two rows have of ours; None where there are none.

    names: what our figures of every column are called. comparable: whether the paper's figures are of the same model
      and steps; else they get an axis of their own.
    """
    chosen = [
        index for metric in PLOTTED for index, column in enumerate(columns)
        if column.metric == metric and len(_points(rows, index, "here")) > 1
    ][:PANELS]  # fmt: skip
    if not chosen:
        return None
    figure = Figure(figsize=(4.2 * len(chosen) + 0.4, 3.6), layout="constrained")
    panels = figure.subplots(1, len(chosen), squeeze=False)[0]
    for axes, index in zip(panels, chosen, strict=True):
        _panel(axes, names[index], index, rows, comparable)
    return figure


def _panel(axes: Axes, name: str, index: int, rows: Sequence[FilledRow], comparable: bool) -> None:
    ours, printed = _points(rows, index, "here"), _points(rows, index, "paper")
    axes.set_title(name, fontsize=9)
    axes.plot(*zip(*ours, strict=True), "o-", color=CATEGORIES[0], markersize=4, label="here")
    if printed:
        other = axes if comparable else axes.twinx()
        other.plot(*zip(*printed, strict=True), "x--", color=PAPER, markersize=5, label="paper")
        other.tick_params(labelsize=7, labelcolor="black" if comparable else PAPER)
        handles = [*axes.get_legend_handles_labels()[0], *([] if comparable else other.get_legend_handles_labels()[0])]
        axes.legend(handles=handles, fontsize=7)
    axes.set_xticks(range(len(rows)), [row.name for row in rows], rotation=60, ha="right", rotation_mode="anchor")
    axes.tick_params(labelsize=7)
    axes.grid(alpha=0.25)


def _points(rows: Sequence[FilledRow], index: int, what: str) -> list[tuple[int, float]]:
    """The finite figures of a column, each with its row's place."""
    found = [(place, getattr(row.cells[index], what)) for place, row in enumerate(rows)]
    return [(place, value) for place, value in found if isinstance(value, int | float) and math.isfinite(value)]
