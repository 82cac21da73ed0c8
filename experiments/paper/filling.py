"""The cells of a paper's table: what is printed, what we have, and how far apart they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from caching import full_evals
from experiments.paper.paper_tables import COSTS, Column, Entry, PaperTable, Section
from experiments.rows.pricing import Price, price
from experiments.rows.results import Result
from experiments.rows.rows import Row

PERCENT = ("precision", "recall")  # printed as such; results hold shares
RESULT = {"throughput": "images_per_second", "psnr": "psnr_mean", "ssim": "ssim_mean"}


class Place(NamedTuple):
    """Where a run stands in a table: indices of section and row, and the run's name. Row -1 is the section's base
    setting without a cache, which speed-ups are over."""

    section: int
    row: int
    run: str = ""


@dataclass(frozen=True)
class Cell:
    """One figure of one row; None where there is none."""

    paper: Any = None
    here: float | str | None = None

    @property
    def difference(self) -> float | None:
        """here - paper."""
        if self.here is None or isinstance(self.here, str) or not isinstance(self.paper, int | float):
            return None
        return self.here - self.paper


@dataclass(frozen=True)
class FilledRow:
    name: str
    cells: list[Cell]
    notes: list[str]


def runs(table: PaperTable) -> Iterator[tuple[Place, Row]]:
    """Everything that has to be sampled for a table, base settings first. What is quoted is not among it."""
    for s, section in enumerate(table.sections):
        yield Place(s, -1), Row("uncached", section.uncached)
        for r, entry in enumerate(section.rows):
            if not entry.quoted:
                for name, change in entry.changes.items():
                    yield Place(s, r, name), Row(f"{entry.name} {name}".strip(), section.config(change))


def fill(table: PaperTable, results: Mapping[Place, Result]) -> list[list[FilledRow]]:
    """The rows of every section. results: what was sampled; without any, there are costs alone."""
    filled = []
    for s, section in enumerate(table.sections):
        base = _Run(price(section.uncached), results.get(Place(s, -1)))
        rows = [_base_row(table, section, base)] if _is_missing(section, base) else []
        for r, entry in enumerate(section.rows):
            made = {
                name: _Run(price(section.config(change)), results.get(Place(s, r, name)))
                for name, change in entry.changes.items()
            }
            cells = [Cell(entry.paper.get(column.key), _here(column, made, base)) for column in table.columns]
            rows.append(FilledRow(entry.name, cells, list(_notes(entry, section, made))))
        filled.append(rows)
    return filled


class _Run(NamedTuple):
    price: Price | None
    result: Result | None


def _is_missing(section: Section, base: _Run) -> bool:
    """Was the base setting sampled, and is no row of the table about it?"""
    if base.result is None or base.result.error:
        return False
    changes = [change for entry in section.rows if not entry.quoted for change in entry.changes.values()]
    return all(section.config(change) != section.uncached for change in changes)


def _base_row(table: PaperTable, section: Section, base: _Run) -> FilledRow:
    """What the other rows are to be compared with; a difference of runs there is none."""
    single = [column if " - " not in column.run else Column(column.name) for column in table.columns]
    cells = [Cell(here=_here(column, {column.run: base}, base)) for column in single]
    return FilledRow(f"uncached, {section.uncached.sampler.steps} steps", cells, [])


def _here(column: Column, made: Mapping[str, _Run], base: _Run) -> float | str | None:
    """Our figure for a column, of a row's runs; a difference of two where the column is one."""
    if not column.metric:
        return None
    values = [_value(column.metric, made[run], base) if run in made else None for run in column.run.split(" - ")]
    if len(values) == 1 or None in values:
        return values[0] if len(values) == 1 else None
    return values[0] - values[1]  # type: ignore[operator]


def _value(metric: str, run: _Run, base: _Run) -> float | str | None:
    if metric in COSTS:
        return None if run.price is None or base.price is None else _cost(metric, run.price, base.price)
    if run.result is None or run.result.error:
        return None
    metrics = run.result.metrics
    if metric == "speedup":
        slow = base.result.metrics.get("images_per_second") if base.result else None
        return metrics["images_per_second"] / slow if slow else None
    if metric == "fid" and "fid" not in metrics:
        metric = "frechet"  # in the features of a network that knows these images
    if metric == "psnr" and metrics.get("identical") == run.result.config["num_images"]:
        return float("inf")
    value = metrics.get(RESULT.get(metric, metric))
    return value * 100 if value is not None and metric in PERCENT else value


def _cost(metric: str, run: Price, base: Price) -> float | str:
    if metric == "schedule":
        return " ".join(map(str, full_evals(run.plan)))
    if metric == "theory":
        return base.calls * base.macs_attention / (run.calls * run.macs_attention)
    return run.macs_per_step * run.steps / base.steps / 1e9


def _notes(entry: Entry, section: Section, made: Mapping[str, _Run]) -> Iterator[str]:
    if entry.note:
        yield entry.note
    for name, run in made.items():
        if run.result is not None and run.result.error:
            yield f"{name or 'The row'} failed: {run.result.error}"
