"""From the cells of a paper's table to a sheet: which columns there are, how figures are written, what is noted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from experiments.paper.filling import Cell, FilledRow, Place, fill
from experiments.paper.paper_tables import Column, PaperTable
from experiments.paper.transfer import Transferred
from experiments.reports.tables import Line, Sheet
from experiments.rows.results import Result


class _Shown(NamedTuple):
    """A column of the sheet: the paper's figure, ours, or their difference."""

    name: str
    index: int  # of the table's column
    what: str  # paper | here | difference


def sheet(moved: Transferred, results: Mapping[Place, Result], command: str = "") -> Sheet:
    """The table with the paper's figures beside ours. results: by place; without any there are costs alone."""
    table = moved.table
    filled = fill(table, results)
    shown = _columns(table, [row for rows in filled for row in rows], not moved.changed, list(results.values()))
    footnotes = list(dict.fromkeys(note for rows in filled for row in rows for note in row.notes))
    sections = []
    for section, rows in zip(table.sections, filled, strict=True):
        lines = [Line(row.name, _texts(table, shown, row), _marks(row, footnotes)) for row in rows]
        sections.append((section.name, lines))
    return Sheet(
        title=f"{table.title}; here {moved.changed}" if moved.changed else table.title,
        header=[each.name for each in shown],
        sections=sections,
        footnotes=footnotes,
        notes=[*table.notes, *_notes(moved, shown, list(results.values()))],
        command=command,
        values=_values(table, shown, filled),
    )


def _columns(table: PaperTable, rows: Sequence[FilledRow], compare: bool, results: Sequence[Result]) -> list[_Shown]:
    """What has figures at all. Differences are shown for the paper's own model and steps alone."""
    shown = []
    for index, column in enumerate(table.columns):
        cells = [row.cells[index] for row in rows]
        paper, here = any(cell.paper is not None for cell in cells), any(cell.here is not None for cell in cells)
        ours = our_name(column, results)
        if paper:
            shown.append(_Shown(f"{column.name}, paper" if column.metric else column.name, index, "paper"))
        if here:
            shown.append(_Shown(f"{ours}, here" if paper else ours, index, "here"))
        if compare and any(cell.difference is not None for cell in cells):
            shown.append(_Shown(f"{column.name}, here - paper", index, "difference"))
    return shown


def our_name(column: Column, results: Iterable[Result]) -> str:
    """What our figures of a column are called: FID only where they are in the features of FID's network."""
    return column.name.replace("FID", "FD") if any("frechet" in r.metrics for r in results) else column.name


def _texts(table: PaperTable, shown: Sequence[_Shown], row: FilledRow) -> list[str]:
    return [text(getattr(row.cells[each.index], each.what), table.columns[each.index], each.what, row.cells[each.index])
            for each in shown]  # fmt: skip


def text(value: Any, column: Column, what: str, cell: Cell) -> str:
    """A figure as it is shown: the paper's as printed, ours with no fewer digits."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if what == "paper" or isinstance(value, str):
        return str(value)
    if not math.isfinite(value):
        return "∞"
    digits = max(column.digits, len(str(cell.paper).partition(".")[2]) if isinstance(cell.paper, float) else 0)
    return f"{value:{'+' if what == 'difference' else ''}.{digits}f}"


def _marks(row: FilledRow, footnotes: Sequence[str]) -> list[int]:
    return [footnotes.index(note) + 1 for note in row.notes]


def _values(table: PaperTable, shown: Sequence[_Shown], filled: Sequence[Sequence[FilledRow]]) -> list[list[Any]]:
    lines: list[list[Any]] = [["section", "row", *(each.name for each in shown)]]
    for section, rows in zip(table.sections, filled, strict=True):
        for row in rows:
            values = [getattr(row.cells[each.index], each.what) for each in shown]
            lines.append([section.name, row.name, *("" if value is None else value for value in values)])
    return lines


def _notes(moved: Transferred, shown: Sequence[_Shown], results: Sequence[Result]) -> list[str]:
    """What a reader has to know about our figures."""
    table, notes = moved.table, list(moved.notes)
    ours = {table.columns[each.index].metric for each in shown if each.what == "here"}
    if moved.changed:
        notes.append("The paper's figures are of its own model and number of steps; they stand here for comparison of "
                     "their trend alone.")  # fmt: skip
    if "theory" in ours:
        notes.append("Theoretical speed-up: over the section's setting without a cache, if time followed MACs, "
                     "attention products included.")  # fmt: skip
    if {"throughput", "speedup"} & ours:
        notes.append("images/s, speed-up, here: of one process, sampling loop and decoding, device synchronised, after "
                     "a pass of every depth; the median batch.")  # fmt: skip
    if {"psnr", "ssim"} & ours:
        notes.append("PSNR (dB), SSIM: of each image to the uncached one of its seed, in 8 bits; means.")
    good = [result for result in results if not result.error]
    notes += dict.fromkeys(line for result in good for line in result.settings)
    notes += dict.fromkeys(line for result in good for line in result.notes)
    notes += dict.fromkeys(map(_circumstances, good))
    if any(result.random_weights for result in good):
        notes.append("Random weights: costs and times are real, images mean nothing and are not judged.")
    return notes


def _circumstances(result: Result) -> str:
    images = "{num_images} images from seed {seed} in batches of {batch_size}".format(**result.config)
    around = "{device}, {precision}, {threads} threads, torch {torch}".format(**result.environment)
    return f"Sampled: {images} on {around}."
