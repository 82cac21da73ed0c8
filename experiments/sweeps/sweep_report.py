"""The report of a sweep, made from its folder alone: table, heat maps, quality against cost, images."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from experiments.data import holds_shards, image_paths, sample_folder
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
from experiments.rows.measures import MEASURES, measured, present
from experiments.rows.results import Result, load_result
from experiments.runs.samples import open_samples
from experiments.sweeps.sweep_plan import Point, load_sweep_plan
from models.files import write_atomically

COSTS = ("macs_per_image", "seconds_per_image")
SHOWN = 8  # images per row


@dataclass(frozen=True)
class Outcome:
    """What a rendered sweep comes to; as text, what a script prints."""

    table: list[str]  # lines of Markdown
    counts: dict[str, int]  # rows finished, failed and not run yet, combinations left out
    failures: dict[str, str]  # sentences by row
    page: Path

    def __str__(self) -> str:
        return "\n".join([*self.table, "", _counted(self.counts), f"the report is {self.page}"])

    @property
    def failed(self) -> str:
        """One line about the rows that failed."""
        name, sentence = next(iter(self.failures.items()))
        return (
            f"{len(self.failures)} {'row' if len(self.failures) == 1 else 'rows'} failed; the first, {name}: {sentence}"
        )


class Finished(NamedTuple):
    """A row of the grid that has a result."""

    point: Point
    result: Result
    figures: dict[str, float]


def render(folder: Path) -> Outcome:
    """Writes report.html, table.md and table.csv into the folder of a sweep, from what is in it.

    Raises InputError where it holds no sweep, or a damaged result.
    """
    report = SweepReport(folder)
    table = markdown([report.header, *report.rows])
    _write(folder / "table.md", "\n".join(table) + "\n")
    _write(folder / "table.csv", report.csv)
    write_report(folder / "report.html", report.plan.title, list(report.blocks()))
    return Outcome(table, report.counts, report.failures, folder / "report.html")


class SweepReport:
    """A sweep's folder, read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plan = folder, load_sweep_plan(folder)
        keys = sorted({key for point in self.plan.points for key in (point.key, point.uncached) if key})
        paths = {key: folder / "results" / f"{key}.json" for key in keys}
        self.results = {key: load_result(path) for key, path in paths.items() if path.exists()}

    @cached_property
    def finished(self) -> list[Finished]:
        """The rows of the grid that have figures, in its order."""
        made = []
        for point in self.plan.points:
            result = self.results.get(point.key)
            if result and not result.error:
                made.append(Finished(point, result, measured(result, self.results.get(point.uncached))))
        return made

    @cached_property
    def uncached(self) -> list[Finished]:
        """What the finished rows are compared with, once each; where they lie but for policy and forecaster."""
        first = {row.point.uncached: row.point for row in reversed(self.finished)}
        made = []
        for point in reversed(first.values()):
            at = {axis: "" if _is_strategy(axis) else value for axis, value in point.at.items()}
            marked = next(filter(_is_strategy, at), next(iter(at)))
            at[marked] = f"{at[marked]} uncached".strip()
            result = self.results[point.uncached]
            name = " ".join(filter(None, ["uncached", *(value for value in at.values() if "uncached" not in value)]))
            made.append(Finished(Point(name, at, point.uncached), result, measured(result, None)))
        return made

    @cached_property
    def failures(self) -> dict[str, str]:
        """The sentences of the rows that failed, by name."""
        stored = [(point, self.results.get(point.key)) for point in self.plan.points]
        sentences = {point.name: point.error or (result and result.error) for point, result in stored}
        return {name: sentence for name, sentence in sentences.items() if sentence}

    @property
    def counts(self) -> dict[str, int]:
        finished, failed = len(self.finished), len(self.failures)
        waiting = len(self.plan.points) - finished - failed
        return {"finished": finished, "failed": failed, "not run yet": waiting, "left out": len(self.plan.left_out)}

    @cached_property
    def measures(self) -> list[str]:
        """What there is to show of each row. MACs per image say nothing new where all make as many calls."""
        names = present([row.figures for row in self.finished])
        calls = {sum(row.result.calls.values()) for row in self.finished}
        return [name for name in names if name != "macs_per_image" or len(calls) > 1]

    @property
    def header(self) -> list[str]:
        return [*self.plan.axes, "calls", *(MEASURES[name].short for name in self.measures)]

    @property
    def rows(self) -> list[list[str]]:
        return [self._cells(row) for row in (*self.uncached, *self.finished)]

    @property
    def csv(self) -> str:
        """All figures in the units they are stored in: MACs, seconds, dB."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        names = sorted({name for row in self.finished for name in row.figures})
        writer.writerow([*self.plan.axes, "key", "full", "partial", "null", *names])
        for point, result, figures in (*self.uncached, *self.finished):
            values = [result.calls[kind] for kind in ("full", "partial", "null")]
            writer.writerow([*point.at.values(), point.key, *values, *(figures.get(name, "") for name in names)])
        return text.getvalue()

    def blocks(self) -> Iterator[Block]:
        """The page."""
        yield Text(self._lead())
        if self.finished:
            yield from self._maps()
            yield from self._trade_off()
            yield from self._images()
            notes = dict.fromkeys(note for row in self.finished for note in (*row.result.settings, *row.result.notes))
            yield Section("All rows")
            yield Table(self.header, self.rows, LEGEND, [*notes])
        if self.failures or self.plan.left_out:
            yield Section("Not measured")
            failed = [[name, f"failed: {sentence}"] for name, sentence in self.failures.items()]
            left_out = [[point.name, f"left out: {point.error}"] for point in self.plan.left_out]
            yield Table(["row", "why"], failed + left_out)
        yield Section("How it was made")
        yield Text("The configuration below, saved as FILE.yaml, is run again by: python scripts/sweep.py FILE.yaml")
        yield Configuration(self.plan.config)
        yield Versions(self._versions())

    def _lead(self) -> str:
        grid = " x ".join(f"{len(values)} of {axis}" for axis, values in self.plan.axes.items())
        config = self.plan.config
        lines = [f"{grid}: {_counted(self.counts)}. {config['num_images']} images of {config['model']} per row."]
        sampler = config["sampler"]
        if not any(axis.startswith("sampler") for axis in self.plan.axes):
            lines[0] += f" {sampler['name'].upper()}, {sampler['steps']} steps, {sampler['spacing']} spacing."
        if any(row.result.random_weights for row in self.finished):
            lines.append("RANDOM WEIGHTS: costs and speed are real, the images mean nothing.")
        return "\n\n".join(lines)

    def _maps(self) -> Iterator[Block]:
        axes = _map_axes(self.plan.axes)
        wanted = [name for name in self.plan.metrics if any(name in row.figures for row in self.finished)]
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
        cells += [(point, (None, "failed" if point.name in self.failures else "")) for point in self.plan.points]
        cells += [(row.point, _cell(name, row.figures)) for row in self.finished]
        return {frozenset(point.at.items()): cell for point, cell in cells}

    def _trade_off(self) -> Iterator[Block]:
        name = self.plan.metrics[0]
        marks = [
            Mark(tuple(figures[cost] for cost in COSTS), figures[name], point.at)
            for point, _, figures in self.finished
            if {name, *COSTS} <= figures.keys()
        ]
        if not marks:
            return
        yield Section("Quality against cost and time")
        costs = [MEASURES[cost] for cost in COSTS]
        device = self._versions()["device"]
        caption = f"MACs are counted as in the paper. Time is of one process on {device}, as in the table below."
        yield Picture(trade_offs(marks, costs, MEASURES[name], self.plan.axes), caption)

    def _images(self) -> Iterator[Block]:
        shown = [(row, first_images(self.folder, row.point.key)) for row in (*self.uncached, *self.finished)]
        shown = [(row, images) for row, images in shown if images]
        if not shown:
            return
        yield Section("Images")
        rows = [(row.point.name, images) for row, images in shown]
        first = int(self.plan.config["seed"])
        seeds = [f"seed {first + i}" for i in range(max(len(images) for _, images in rows))]
        yield ImageGrid(rows, "The same seeds under every row.", seeds)

    def _versions(self) -> dict[str, str]:
        """What the rows were made with; where they differ, all that occurs."""
        records = [row.result.environment | _checkpoint(row.result) for row in (*self.uncached, *self.finished)]
        names = dict.fromkeys(name for record in records for name in record)
        found = {name: dict.fromkeys(str(record[name]) for record in records if name in record) for name in names}
        return {name: ", ".join(values) for name, values in found.items()}

    def _cells(self, row: Finished) -> list[str]:
        kinds = ("full", "partial", "null") if row.result.calls["null"] else ("full", "partial")
        calls = " / ".join(f"{row.result.calls[kind]:.1f}".removesuffix(".0") for kind in kinds)
        figures = [MEASURES[name].text(row.figures.get(name)) for name in self.measures]
        return [*row.point.at.values(), calls, *figures]


LEGEND = (
    "calls: network calls per image, full / partial (/ null). theory: speed-up if time followed MACs. ms per image, "
    "measured: of one process, decoding included, the median batch. PSNR (dB), SSIM: to the uncached images of the "
    "same seeds. A click on a column's name sorts."
)


def first_images(folder: Path, key: str) -> list[Path] | list[Tensor]:
    """The first images that a row left, in the order of their seeds; none where they were removed."""
    samples = folder / "samples" / key
    if not samples.exists():
        return []
    samples = sample_folder(samples)
    if holds_shards(samples):
        images = open_samples(samples)
        return list(images.batch(range(min(SHOWN, len(images)))))
    return image_paths(samples)[:SHOWN]


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


def _checkpoint(result: Result) -> dict[str, str]:
    return {"checkpoint": result.checkpoint["source"], "sha256": result.checkpoint["sha256"][:12]}


def _last(axis: str) -> str:
    return axis.rpartition(".")[2]


def _is_strategy(axis: str) -> bool:
    return axis.partition(".")[0] in ("policy", "forecaster")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {what}" for what, count in counts.items() if count)


def _write(path: Path, text: str) -> None:
    write_atomically(path, lambda unfinished: unfinished.write_text(text, encoding="utf-8"))
