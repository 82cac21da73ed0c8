"""The plot: time over that of the full pass, beside the MACs. Drawn from the JSON lines alone."""

from __future__ import annotations

from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.benchmark.records import Record
from experiments.reports.colours import BLACK, BLUE, GREEN, ORANGE, PURPLE, SKY, VERMILION, YELLOW

COLOURS = [BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, YELLOW, BLACK]


def figure(records: Sequence[Record]) -> Figure:
    """One panel per case: for every task a bar per variant, its time relative to the first variant's full pass (or
    uncached trajectory), and a mark where time proportional to MACs would end."""
    rows = [record for record in records if "engine" in record]
    cases = list(dict.fromkeys(row["case"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    colours = {variant: COLOURS[i % len(COLOURS)] for i, variant in enumerate(variants)}
    drawing = Figure(figsize=(8, 0.6 + 3 * max(1, len(cases))), layout="constrained")
    for axes, case in zip(drawing.subplots(max(1, len(cases)), squeeze=False)[:, 0], cases, strict=False):
        _panel(axes, [row for row in rows if row["case"] == case], colours)
        axes.set_title(case, fontsize=9, loc="left")
    return drawing


def _panel(axes: Axes, rows: Sequence[Record], colours: dict[str, str]) -> None:
    tasks = list(dict.fromkeys(row["what"] for row in rows))
    variants = list(dict.fromkeys(row["variant"] for row in rows))
    width = 0.8 / len(variants)
    for place, variant in enumerate(variants):
        own = [row for row in rows if row["variant"] == variant]
        x = [tasks.index(row["what"]) + (place - (len(variants) - 1) / 2) * width for row in own]
        axes.bar(x, [row["seconds"] / unit(row, rows) for row in own], width, color=colours[variant], label=variant)
        full = {row["what"]: row for row in own}
        for position, row in zip(x, own, strict=True):
            if row["full"] in full:
                whole = full[row["full"]]
                height = whole["seconds"] / unit(row, rows) * row["macs"] / whole["macs"]
                axes.plot([position - width / 2, position + width / 2], [height] * 2, color="black", linewidth=1.2)
    axes.set_xticks(range(len(tasks)), tasks, fontsize=8)
    axes.set_ylabel("time, full pass = 1\n(line: by its MACs)", fontsize=8)
    axes.grid(axis="y", alpha=0.3)
    axes.legend(fontsize=7, ncols=2)


def unit(row: Record, rows: Sequence[Record]) -> float:
    """Seconds of what bars are relative to: the full pass of the first variant, for trajectories its uncached one (or,
    where that was not measured, its own)."""
    first = [other for other in rows if other["variant"] == rows[0]["variant"]]
    seconds = {other["what"]: other["seconds"] for other in first}
    return seconds.get(row["full"] or row["what"]) or seconds.get(row["what"]) or row["seconds"]
