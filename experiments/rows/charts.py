"""Plots of grids of results: heat maps over two axes, and quality against what it costs.

Colours are perceptually uniform or distinct to colour-blind eyes; values also stand in the cells, series also differ in
their markers.
"""

from __future__ import annotations

import itertools
import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from experiments.reports.colours import BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION
from experiments.rows.measures import Measure

CATEGORIES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY)
MARKERS = "osD^vPX*<>"
LOG_FROM = 8.0  # an axis whose values span a larger factor is logarithmic


@dataclass(frozen=True)
class HeatMap:
    """A measure over two axes. cells: (y, x) -> its value; None with its text where there is none."""

    title: str
    x: Sequence[str]
    y: Sequence[str]
    cells: Mapping[tuple[str, str], tuple[float | None, str]]


def heat_maps(maps: Sequence[HeatMap], axes: tuple[str, str], measure: Measure) -> Figure:
    """One panel per map on a common colour scale; bright is good. axes: names of x and y."""
    columns, across, down = (1 if len(maps[0].x) > 6 else 3), len(maps[0].x), len(maps[0].y)
    columns = min(columns, len(maps))
    rows = math.ceil(len(maps) / columns)
    width = columns * (0.62 * across + 0.9 + 0.07 * max(map(len, maps[0].y))) + 1.3
    figure = Figure(figsize=(width, rows * (0.46 * down + 1.0) + 0.2), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    values = [value for each in maps for value, _ in each.cells.values() if value is not None and math.isfinite(value)]
    scale = LogNorm if _wants_log(values) else Normalize
    norm = scale(min(values, default=0), max(values, default=1))
    colours = colormaps["viridis_r" if measure.lower_is_better else "viridis"].with_extremes(bad="#ececec")
    for panel, each in zip(panels, maps, strict=False):
        image = _heat_map(panel, each, norm, colours)
        panel.set(xlabel=axes[0], ylabel=axes[1])
        panel.set_title(each.title, fontsize=9)
    for panel in panels[len(maps) :]:
        panel.set_visible(False)
    bar = figure.colorbar(image, ax=list(panels), label=textwrap.fill(measure.label, 24), aspect=12 * rows, pad=0.02)
    bar.outline.set_visible(False)
    return figure


def _heat_map(panel: Axes, each: HeatMap, norm: Normalize, colours: Any) -> Any:
    found = [[each.cells.get((y, x), (None, "")) for x in each.x] for y in each.y]
    array = np.array([[np.nan if value is None else value for value, _ in row] for row in found], dtype=float)
    image = panel.imshow(np.ma.masked_invalid(array), cmap=colours, norm=norm, aspect="auto")
    for (i, j), value in np.ndenumerate(array):
        ink = "white" if np.isfinite(value) and _luminance(colours(norm(value))) < 0.18 else "black"
        panel.text(j, i, found[i][j][1], ha="center", va="center", fontsize=8, color=ink)
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"} if max(map(len, each.x)) > 6 else {}
    panel.set_xticks(range(len(each.x)), each.x, **slanted)
    panel.set_yticks(range(len(each.y)), each.y)
    panel.tick_params(length=0, labelsize=8)
    for spine in panel.spines.values():
        spine.set_visible(False)
    return image


def _luminance(colour: Sequence[float]) -> float:
    """Relative luminance of an sRGB colour (WCAG 2.1); at 0.18 black and white are as easy to read."""
    linear = [value / 12.92 if value <= 0.03928 else ((value + 0.055) / 1.055) ** 2.4 for value in colour[:3]]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


@dataclass(frozen=True)
class Mark:
    """One result in a plot of quality against cost."""

    costs: tuple[float, ...]  # one per panel
    quality: float
    at: Mapping[str, str]  # its value on every axis of the grid


@dataclass(frozen=True)
class Style:
    """How marks are told apart.

    colour: the axis told by colour. marker: the axis told by marker. line: the axis along which marks that agree in
      all others are joined. None: no such axis.
    """

    colour: str | None
    marker: str | None
    line: str | None

    @classmethod
    def of(cls, axes: Mapping[str, Sequence[str]]) -> Style:
        """The longest axis of numbers is drawn as lines; of the others the shortest is told by colour."""
        line = max(
            (axis for axis in axes if all(map(_is_number, axes[axis]))), key=lambda axis: len(axes[axis]), default=None
        )
        others = sorted(
            (axis for axis in axes if axis != line and len(axes[axis]) > 1), key=lambda axis: len(axes[axis])
        )
        return cls(*[*others, None, None][:2], line)


def trade_offs(
    marks: Sequence[Mark], costs: Sequence[Measure], quality: Measure, axes: Mapping[str, Sequence[str]]
) -> Figure:
    """Quality against each cost, side by side; what nothing beats at its cost or less is joined by a dashed line.

    axes: those of the grid, with their values.
    """
    style = Style.of(axes)
    colours, markers = _colours(_values(marks, axes, style.colour)), _markers(_values(marks, axes, style.marker))
    figure = Figure(figsize=(4.7 * len(costs) + 2.2, 4.3), layout="constrained")
    panels = figure.subplots(1, len(costs), squeeze=False, sharey=True)[0]
    scaled = [(np.multiply(mark.costs, [cost.scale for cost in costs]), mark.quality * quality.scale) for mark in marks]
    for i, (panel, cost) in enumerate(zip(panels, costs, strict=True)):
        points = [(float(spent[i]), good) for spent, good in scaled]
        front = _front(points, quality.lower_is_better)
        panel.plot(*zip(*front, strict=True), "--", color="#999999", linewidth=1, zorder=1)
        for line in _lines(marks, style.line):
            at = marks[line[0]].at
            panel.plot(
                *zip(*(points[index] for index in line), strict=True),
                "-" if style.line else "",
                color=colours.get(at.get(style.colour or "", ""), CATEGORIES[0]),
                marker=markers.get(at.get(style.marker or "", ""), "o"),
                markersize=5,
                linewidth=1.2,
            )
        _scale(panel, "x", [x for x, _ in points])
        panel.set_xlabel(cost.label)
        panel.grid(alpha=0.25)
        panel.spines[["top", "right"]].set_visible(False)
    _scale(panels[0], "y", [good for _, good in scaled])
    panels[0].set_ylabel(quality.label)
    _legend(figure, style, colours, markers)
    return figure


def _legend(figure: Figure, style: Style, colours: Mapping[str, Any], markers: Mapping[str, str]) -> None:
    def entry(label: str, **look: Any) -> Line2D:
        return Line2D([], [], label=label, **{"linestyle": "", "color": "#555555"} | look)

    entries = [entry(style.colour)] if style.colour else []
    entries += [entry(value, color=colour, marker="o") for value, colour in colours.items()]
    entries += [entry(style.marker)] if style.marker else []
    entries += [entry(value, marker=marker) for value, marker in markers.items()]
    entries += [entry(f"lines: along {style.line}")] if style.line else []
    entries += [entry("best at its cost", color="#999999", linestyle="--")]
    figure.legend(handles=entries, loc="outside right upper", fontsize=8, frameon=False)


def _lines(marks: Sequence[Mark], axis: str | None) -> list[list[int]]:
    """Indices of marks that agree on everything but `axis`, each line in the order of that axis; without one, every
    mark by itself."""
    if axis is None:
        return [[index] for index in range(len(marks))]
    lines: dict[tuple[str, ...], list[int]] = {}
    for index, mark in enumerate(marks):
        lines.setdefault(tuple(value for key, value in mark.at.items() if key != axis), []).append(index)
    return [sorted(line, key=lambda index: float(marks[index].at[axis])) for line in lines.values()]


def _front(points: Sequence[tuple[float, float]], lower_is_better: bool) -> list[tuple[float, float]]:
    """The points that are better than every cheaper one, from the cheapest on."""
    sign, front = (-1 if lower_is_better else 1), []
    for x, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not front or sign * quality > sign * front[-1][1]:
            front.append((x, quality))
    return front


def _values(marks: Sequence[Mark], axes: Mapping[str, Sequence[str]], axis: str | None) -> list[str]:
    """The values of an axis that occur, in its order."""
    return [value for value in axes[axis] if any(mark.at[axis] == value for mark in marks)] if axis else []


def _colours(values: Sequence[str]) -> dict[str, Any]:
    """Shades from dark to bright for numbers, distinct colours for names as long as there are enough."""
    if len(values) <= len(CATEGORIES) and not all(map(_is_number, values)):
        return dict(zip(values, CATEGORIES, strict=False))
    return {value: colormaps["viridis"](0.92 * i / max(len(values) - 1, 1)) for i, value in enumerate(values)}


def _markers(values: Sequence[str]) -> dict[str, str]:
    return dict(zip(values, itertools.cycle(MARKERS), strict=False))


def _scale(panel: Axes, which: str, values: Sequence[float]) -> None:
    """A logarithmic axis where the values ask for one, with plain numbers along it."""
    if not _wants_log(values):
        return
    panel.set(**{f"{which}scale": "log"})
    axis = panel.xaxis if which == "x" else panel.yaxis
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def _wants_log(values: Sequence[float]) -> bool:
    return bool(values) and min(values) > 0 and max(values) >= LOG_FROM * min(values)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
