"""Tables for people to read, and for programs: Markdown, CSV and LaTeX."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Line:
    """One row of a sheet: its name, the numbers of its footnotes, and a cell per column."""

    name: str
    cells: Sequence[str]
    marks: Sequence[int] = ()


@dataclass(frozen=True)
class Sheet:
    """A table with sections and footnotes, as text."""

    title: str
    header: Sequence[str]  # of the cells; the names' own heading is `corner`
    sections: Sequence[tuple[str, Sequence[Line]]]
    footnotes: Sequence[str] = ()  # what marks refer to, from 1
    notes: Sequence[str] = ()
    command: str = ""  # that made it
    corner: str = "row"
    values: Sequence[Sequence[object]] = field(default_factory=list)  # the unrounded ones, for CSV, header first

    @property
    def is_sectioned(self) -> bool:
        return len(self.sections) > 1


def markdown(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table, aligned so that it also reads well in a terminal; the first row is its header."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def sheet_markdown(sheet: Sheet) -> str:
    """The sheet as a Markdown document: a table per section, then the notes."""
    lines = [f"# {sheet.title}", ""]
    for name, rows in sheet.sections:
        body = [[_marked(line), *line.cells] for line in rows]
        cells = [[cell.replace("|", "\\|") for cell in row] for row in ([sheet.corner, *sheet.header], *body)]
        lines += [*([f"## {name}", ""] if sheet.is_sectioned else []), *markdown(cells), ""]
    lines += [f"[{number}] {note}\n" for number, note in enumerate(sheet.footnotes, 1)]
    lines += [f"- {note}" for note in sheet.notes]
    if sheet.command:
        lines += ["", f"Made by `{sheet.command}`."]
    return "\n".join(lines).rstrip() + "\n"


def sheet_csv(sheet: Sheet) -> str:
    """The unrounded values; notes are left to the other formats."""
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(sheet.values)
    return buffer.getvalue()


def sheet_latex(sheet: Sheet) -> str:
    """A LaTeX table for booktabs (and graphicx, which fits it to the page)."""
    columns = len(sheet.header) + 1
    lines = [
        "% \\usepackage{booktabs,graphicx}",
        "\\begin{table}",
        "\\centering",
        f"\\caption{{{escape(sheet.title)}}}",
        "\\resizebox{\\textwidth}{!}{%",
        f"\\begin{{tabular}}{{l{'r' * (columns - 1)}}}",
        "\\toprule",
        _latex_row([escape(cell) for cell in (sheet.corner, *sheet.header)]),
    ]
    for name, rows in sheet.sections:
        lines.append("\\midrule")
        if sheet.is_sectioned:
            lines.append(_latex_row([f"\\multicolumn{{{columns}}}{{l}}{{\\textit{{{escape(name)}}}}}"]))
        lines += [_latex_row([_latex_name(line), *map(escape, line.cells)]) for line in rows]
    lines += ["\\bottomrule", "\\end{tabular}}", ""]
    lines += [
        f"\\par\\footnotesize\\textsuperscript{{{n}}} {escape(note)}" for n, note in enumerate(sheet.footnotes, 1)
    ]
    lines += [f"\\par\\footnotesize {escape(note)}" for note in sheet.notes]
    if sheet.command:
        lines.append(f"\\par\\footnotesize \\texttt{{{escape(sheet.command)}}}")
    return "\n".join([*lines, "\\end{table}", ""])


# What LaTeX would take for something else, and characters beyond its default fonts.
ESCAPES = {
    "\\": "\\textbackslash{}", "{": "\\{", "}": "\\}", "&": "\\&", "%": "\\%", "$": "\\$", "#": "\\#", "_": "\\_",
    "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "<": "\\textless{}", ">": "\\textgreater{}",
    "|": "\\textbar{}", "[": "{[}", "]": "{]}",
    "--": "-{}-", "…": "\\ldots{}", "\u00d7": "$\\times$", "·": "$\\cdot$", "²": "$^2$",
    "∞": "$\\infty$", "±": "$\\pm$", "\u2212": "$-$", "ᾱ": "$\\bar\\alpha$", "\u03c3": "$\\sigma$",
}  # fmt: skip


def escape(text: str) -> str:
    """Text that LaTeX prints as it is."""
    text = "".join(ESCAPES.get(character, character) for character in text)
    return text.replace("--", ESCAPES["--"])


def _latex_row(cells: Sequence[str]) -> str:
    return " & ".join(cells) + " \\\\"


def _latex_name(line: Line) -> str:
    marks = ",".join(map(str, line.marks))
    return escape(line.name) + (f"\\textsuperscript{{{marks}}}" if marks else "")


def _marked(line: Line) -> str:
    return " ".join([line.name, *(f"[{mark}]" for mark in line.marks)])
