"""The report of a sweep, made from its folder alone: table, heat maps, quality against cost, images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path

from experiments.reports.report import (
    Block,
    Configuration,
    ImageGrid,
    Picture,
    Section,
    Table,
    Text,
    Versions,
    write_report,
)
from experiments.reports.tables import markdown
from experiments.rows.charts import HeatMap, Mark, heat_maps, trade_offs
from experiments.rows.measures import MEASURES, present
from experiments.runs.summary import calls_in_words
from experiments.sweeps.contrasts import HEADER, contrasts
from experiments.sweeps.sweep_folder import Finished, SweepFolder
from experiments.sweeps.sweep_plan import Point
from models.files import write_text

COSTS = ("macs_per_image", "seconds_per_image")
SHOWN = 8  # images per row


@dataclass(frozen=True)
class Outcome:
    """What a rendered sweep comes to; as text, what a script prints."""

    table: list[str]  # lines of Markdown, as the next
    contrasts: list[str]
    counts: dict[str, int]  # rows finished, failed and not run yet, combinations left out
    failures: dict[str, str]  # sentences by row
    page: Path

    def __str__(self) -> str:
        return "\n".join([*self.table, *self.contrasts, "", _counted(self.counts), f"the report is {self.page}"])


def render(folder: Path) -> Outcome:
    """Writes report.html, table.md and table.csv into the folder of a sweep, from what is in it.

    Raises InputError where it holds no sweep, or a damaged result.
    """
    sweep = SweepFolder(folder)
    report = SweepReport(sweep)
    table = markdown([report.header, *report.rows])
    write_text(folder / "table.md", "\n".join(table) + "\n")
    write_text(folder / "table.csv", report.csv)
    write_report(folder / "report.html", sweep.plan.title, list(report.blocks()))
    contrasted = ["", report.about_contrasts, "", *markdown([HEADER, *report.contrasts])] if report.contrasts else []
    return Outcome(table, contrasted, sweep.counts, sweep.failures, folder / "report.html")


class SweepReport:
    """A sweep's table and page."""

    def __init__(self, sweep: SweepFolder) -> None:
        self.sweep, self.plan = sweep, sweep.plan

    @cached_property
    def measures(self) -> list[str]:
        """What there is to show of each row. MACs per image say nothing new where all make as many calls."""
        names = present([row.figures for row in self.sweep.finished])
        calls = {sum(row.result.calls.values()) for row in self.sweep.finished}
        return [name for name in names if name != "macs_per_image" or len(calls) > 1]

    @property
    def header(self) -> list[str]:
        return [*self.plan.axes, "calls", *(MEASURES[name].short for name in self.measures)]

    @property
    def rows(self) -> list[list[str]]:
        return [self._cells(row) for row in self.sweep.rows]

    @property
    def csv(self) -> str:
        """All figures in the units they are stored in: MACs, seconds, dB."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = sorted({name for row in self.sweep.finished for name in row.figures})
        writer.writerow([*self.plan.axes, "key", "full", "partial", "null", *names])
        for point, result, figures in self.sweep.rows:
            values = [result.calls[kind] for kind in ("full", "partial", "null")]
            writer.writerow([*point.at.values(), point.key, *values, *(figures.get(name, "") for name in names)])
        return text.getvalue()

    @property
    def contrasts(self) -> list[list[str]]:
        """What each setting changes in the first metric: a table's rows, under contrasts.HEADER."""
        name = self.plan.metrics[0]
        rows = [row for row in self.sweep.finished if name in row.figures]
        found = {frozenset(row.point.at.items()): row.figures[name] for row in rows}
        return [contrast.cells(MEASURES[name]) for contrast in contrasts(self.plan.axes, found)]

    @property
    def about_contrasts(self) -> str:
        return f"{MEASURES[self.plan.metrics[0]].label}: what it changes by, of rows that differ in one setting alone."

    def blocks(self) -> Iterator[Block]:
        """The page."""
        yield Text(self._lead())
        if self.sweep.finished:
            yield from self._maps()
            yield from self._trade_off()
            if self.contrasts:
                yield Section("One setting at a time")
                yield Table(HEADER, self.contrasts, self.about_contrasts)
            yield from self._images()
            results = [row.result for row in self.sweep.finished]
            notes = dict.fromkeys(note for result in results for note in (*result.settings, *result.notes))
            yield Section("All rows")
            yield Table(self.header, self.rows, LEGEND, [*notes])
        if self.sweep.failures or self.plan.left_out:
            yield Section("Not measured")
            failed = [[name, f"failed: {sentence}"] for name, sentence in self.sweep.failures.items()]
            left_out = [[point.name, f"left out: {point.error}"] for point in self.plan.left_out]
            yield Table(["row", "why"], failed + left_out)
        yield Section("How it was made")
        command = " ".join(["python scripts/sweep.py FILE.yaml", *self.plan.imports])
        yield Text(f"The configuration below, saved as FILE.yaml, is run again by: {command}")
        yield Configuration(self.plan.config)
        yield Versions(self.sweep.versions)

    def _lead(self) -> str:
        grid = " x ".join(f"{len(values)} of {axis}" for axis, values in self.plan.axes.items())
        config = self.plan.config
        lines = [f"{grid}: {_counted(self.sweep.counts)}. {config['num_images']} images of {config['model']} per row."]
        sampler = config["sampler"]
        if not any(axis.startswith("sampler") for axis in self.plan.axes):
            lines[0] += f" {sampler['name'].upper()}, {sampler['steps']} steps, {sampler['spacing']} spacing."
        if any(row.result.random_weights for row in self.sweep.finished):
            lines.append("RANDOM WEIGHTS: costs and speed are real, the images mean nothing.")
        return "\n\n".join(lines)

    def _maps(self) -> Iterator[Block]:
        axes = _map_axes(self.plan.axes)
        wanted = [name for name in self.plan.metrics if any(name in row.figures for row in self.sweep.finished)]
        if axes is None or not wanted:
            return
        x, y = axes
        yield Section(f"{_last(y).capitalize()} and {_last(x)}")
        for name in wanted:
            label = MEASURES[name].label
            caption = f"{label[0].upper()}{label[1:]}; the brighter, the better."
            panels = self._panels(x, y, name)
            if any(text == "=" for panel in panels for _, text in panel.cells.values()):
                caption += " =: every image equals its uncached one."
            yield Picture(heat_maps(panels, (x, y), MEASURES[name]), caption)

    def _panels(self, x: str, y: str, name: str) -> list[HeatMap]:
        """One map over x and y for every combination of the other axes."""
        others = {axis: values for axis, values in self.plan.axes.items() if axis not in (x, y)}
        found = self._found(name)
        panels = []
        for values in product(*others.values()):
            fixed = dict(zip(others, values, strict=True))
            title = ", ".join(f"{axis} {value}" for axis, value in fixed.items())
            where = list(product(self.plan.axes[y], self.plan.axes[x]))
            cells = {(b, a): found[frozenset({**fixed, x: a, y: b}.items())] for b, a in where}
            panels.append(HeatMap(title, self.plan.axes[x], self.plan.axes[y], cells))
        return panels

    def _found(self, name: str) -> dict[frozenset[tuple[str, str]], tuple[float | None, str]]:
        """A measure everywhere in the grid, with its text; of rows without figures what became of them."""
        cells: list[tuple[Point, tuple[float | None, str]]] = [
            (point, (None, "\u2013")) for point in self.plan.left_out
        ]
        cells += [(point, (None, "failed" if point.name in self.sweep.failures else "")) for point in self.plan.points]
        cells += [(row.point, _cell(name, row.figures)) for row in self.sweep.finished]
        return {frozenset(point.at.items()): cell for point, cell in cells}

    def _trade_off(self) -> Iterator[Block]:
        name = self.plan.metrics[0]
        marks = [
            Mark(tuple(figures[cost] for cost in COSTS), figures[name], point.at)
            for point, _, figures in self.sweep.finished
            if {name, *COSTS} <= figures.keys()
        ]
        if not marks:
            return
        yield Section("Quality against cost and time")
        costs = [MEASURES[cost] for cost in COSTS]
        device = self.sweep.versions["device"]
        caption = f"MACs are counted as in the paper. Time is of one process on {device}, as in the table below."
        yield Picture(trade_offs(marks, costs, MEASURES[name], self.plan.axes), caption)

    def _images(self) -> Iterator[Block]:
        shown = [(row, self.sweep.first_images(row.point.key, SHOWN)) for row in self.sweep.rows]
        shown = [(row, images) for row, images in shown if images]
        if not shown:
            return
        yield Section("Images")
        rows = [(row.point.name, images) for row, images in shown]
        if "seed" in self.plan.axes:
            yield ImageGrid(rows, "The first images of every row.", [])
            return
        first = int(self.plan.config["seed"])
        seeds = [f"seed {first + i}" for i in range(max(len(images) for _, images in rows))]
        yield ImageGrid(rows, "The same seeds under every row.", seeds)

    def _cells(self, row: Finished) -> list[str]:
        figures = [MEASURES[name].text(row.figures.get(name)) for name in self.measures]
        return [*row.point.at.values(), calls_in_words(row.result.calls), *figures]


LEGEND = (
    "calls: network calls per image, full / partial (/ null). theory: speed-up if time followed MACs. ms per image, "
    "measured: of one process, decoding included, the median batch. PSNR (dB), SSIM: to the uncached images of the "
    "same seeds. A click on a column's name sorts."
)


def _map_axes(axes: Mapping[str, Sequence[str]]) -> tuple[str, str] | None:
    """The two longest axes as x and y, short words along x; None where there are no two with something to compare."""
    longest = sorted((axis for axis in axes if len(axes[axis]) > 1), key=lambda axis: -len(axes[axis]))[:2]
    if len(longest) < 2:
        return None
    x, y = sorted(longest, key=lambda axis: (max(map(len, axes[axis])), -len(axes[axis])))
    return x, y


def _cell(name: str, figures: Mapping[str, float]) -> tuple[float | None, str]:
    if name in figures:
        return figures[name] * MEASURES[name].scale, MEASURES[name].text(figures[name])
    return None, "=" if figures.get("identical") else ""


def _last(axis: str) -> str:
    return axis.rpartition(".")[2]


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)
