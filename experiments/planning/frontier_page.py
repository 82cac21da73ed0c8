"""What is shown of the frontier: a summary, all rows, and the picture. Made from results alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.planning.contenders import GROUPS, OWN
from experiments.reports.colours import BLACK, BLUE, GREEN, PURPLE, SKY, VERMILION
from experiments.reports.tables import markdown

TITLE = "Nearer to the uncached image at the same cost"

Result = Mapping[str, Any]


class Style(NamedTuple):
    """How a group of rows is drawn."""

    colour: str
    marker: str
    width: float = 1.2


# And a marker each, for those who print in grey.
STYLES = {
    "fewer steps": Style(BLUE, "s"),
    "reuse": Style("#8C8C8C", "X"),
    "forecasts": Style(SKY, "^"),
    "adaptive": Style(PURPLE, "D"),
    "null steps": Style(GREEN, "v"),
    "calibrated": Style(VERMILION, "o", 2.2),
    OWN: Style(BLACK, "*", 1.6),
}

EXPLANATIONS = (
    ("fewer steps", "DDIM, DPM-Solver++ 2M and PLMS without a cache."),
    ("reuse", "features taken as they are, on published schedules."),
    ("forecasts", "features extrapolated, on uniform plans."),
    ("adaptive", "images decide for themselves when to refresh, by limits that kept the budget in calibration."),
    ("null steps", "evenly spaced full calls, and forecasts of the network's output between them."),
    ("calibrated", "what scripts/calibrate.py found."),
    (OWN, "what was given as also=, each at the smallest budget that it keeps."),
)


def ordered(results: Iterable[Result]) -> list[Result]:
    """As they are shown: setting by setting, many steps before few, large budgets before small, the best rows first.

    One's own rows have no budget: they go to the smallest that they keep, or with math.inf before all of them.
    """
    results = [dict(result) for result in results]
    for result in results:
        if result["budget"] is None:
            others = [other["budget"] for other in results if other["setting"] == result["setting"]]
            kept = [budget for budget in others if budget is not None and budget >= result["macs"] - 1e-6]
            result["budget"] = min(kept, default=math.inf)
    return sorted(results, key=_order)


def summary(results: Sequence[Result]) -> list[str]:
    """Of `ordered` results the best of every group at each setting and budget, and one's own, as lines of Markdown."""
    compared = [group for group in GROUPS if group != OWN]
    table = [["setting", "MACs", *compared, "its calls", "gain"]]
    for (setting, budget), rows in _cells(results).items():
        if budget == math.inf:
            continue
        best: dict[str, Result] = {}
        for row in rows:
            best.setdefault(row["group"], row)
        found = best["calibrated"]
        gain = found["psnr"] - max(best[group]["psnr"] for group in ("fewer steps", "reuse"))
        psnrs = [f"{best[group]['psnr']:.1f}" if group in best else "" for group in compared]
        calls = " / ".join(map(str, found["calls"]))
        table.append([_title(setting), f"{budget:.1%}", *psnrs, calls, f"{gain:+.1f}"])
    start, stop = results[0]["seeds"]
    excess = max((row["macs"] / row["budget"] - 1 for row in results if row["group"] == "adaptive"), default=0)
    legend = (
        f"PSNR (dB, mean over {stop - start} images) to the uncached images, of the best row of each group at these "
        f"MACs{f' (adaptive ones cost up to {excess:.1%} more)' if excess > 0 else ''}; its calls: full / partial / "
        "null ones of the calibrated plan; gain: of that plan over the best of fewer steps and reuse."
    )
    own = [["yours", "setting", "MACs", "PSNR"]]
    own += [[row["name"], _title(row["setting"]), f"{row['macs']:.1%}", f"{row['psnr']:.1f}"]
            for row in results if row["group"] == OWN]  # fmt: skip
    return [*markdown(table), "", legend, *(["", *markdown(own)] if len(own) > 1 else [])]


def page(results: Sequence[Result], model: str) -> str:
    """The summary and what it means, then all `ordered` rows, one table for each setting and budget."""
    start, stop = results[0]["seeds"]
    lines = [
        f"# {TITLE}", "",
        f"{model}, seeds {start} to {stop - 1}, which no plan was calibrated on. Made by `scripts/frontier.py`.", "",
        *summary(results), "",
        *(f"- *{group}*: {text}" for group, text in EXPLANATIONS if any(row["group"] == group for row in results)), "",
        "A setting is DDIM but where another sampler is named; quadratic: its timesteps are denser near the image. The "
        "solution is that of the differential equation, by many more steps.",
    ]  # fmt: skip
    for (setting, budget), rows in _cells(results).items():
        share = "more than any budget" if budget == math.inf else f"a budget of {budget:.1%} of the MACs"
        lines += ["", f"### {_title(setting)}: {share}", ""]
        cells = [[row["name"], f"{row['macs']:.1%}", *_errors(row)] for row in rows]
        lines += markdown([["", "MACs", "MSE", "PSNR", "PSNR to the solution"], *cells])
    return "\n".join(lines)


def picture(results: Sequence[Result]) -> Figure:
    """PSNR against MACs, a panel for each setting: of every group a line through its best row at each budget, and the
    others as faint points; one's own rows as markers at their own MACs."""
    settings = list(dict.fromkeys(result["setting"] for result in results))
    columns = min(2, len(settings))
    rows = math.ceil(len(settings) / columns)
    figure = Figure(figsize=(3.75 * columns, 2.6 * rows + 1.6 / columns + 0.2), layout="constrained")
    panels = list(figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).flat)
    for axes, setting in zip(panels, settings, strict=False):
        _draw(axes, [row for row in results if row["setting"] == setting and row["group"] in STYLES])
        axes.set_title(_title(setting), fontsize=10)
    for axes in panels[len(settings) :]:
        axes.remove()
    for axes in panels[: len(settings)][-columns:]:
        axes.set_xlabel("MACs, % of the uncached trajectory")
        axes.tick_params(labelbottom=True)  # also where the place below is empty
    budgets = sorted({round(100 * row["budget"]) for row in results if row["budget"] < 1})
    if len(budgets) <= 6:  # more would run into each other
        panels[0].set_xticks(budgets)
    figure.suptitle(TITLE, fontsize=12)
    figure.supylabel("PSNR to the uncached images, dB", fontsize=10)
    groups = [group for group in reversed(GROUPS) if any(row["group"] == group for row in results)]
    handles = [Line2D([], [], **_look(group), label=group) for group in groups]
    handles.append(Line2D([], [], linestyle="", marker="o", markersize=3, color="#777777", label="other rows"))
    figure.legend(handles=handles, loc="outside lower center", ncols=2 * columns, fontsize=9, frameon=False)
    return figure


def _draw(axes: Axes, rows: Sequence[Result]) -> None:
    for group, style in STYLES.items():
        ours = [row for row in rows if row["group"] == group]
        best = ours if group == OWN else [max(at, key=lambda row: row["psnr"]) for at in _by(ours, "budget").values()]
        best = sorted(best, key=lambda row: row["macs"])
        others = [row for row in ours if row not in best]
        axes.plot(*_points(others), linestyle="", marker="o", markersize=2.5, color=style.colour, alpha=0.4)
        # The widest line lies behind the others, so that it hides none which it only equals.
        axes.plot(*_points(best), **_look(group), zorder=2 if group == "calibrated" else 3)
    axes.grid(axis="y", alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=9)


def _look(group: str) -> dict[str, Any]:
    style = STYLES[group]
    size = {"*": 11, "o": 7}.get(style.marker, 5)
    line = {"linestyle": "" if group == OWN else "-", "linewidth": style.width}
    return line | {"color": style.colour, "marker": style.marker, "markersize": size, "markeredgecolor": "white",
                   "markeredgewidth": 0.5}  # fmt: skip


def _points(rows: Sequence[Result]) -> tuple[list[float], list[float]]:
    return [100 * row["macs"] for row in rows], [row["psnr"] for row in rows]


def _by(rows: Sequence[Result], *keys: str) -> dict[Any, list[Result]]:
    found: dict[Any, list[Result]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    return found


def _cells(results: Sequence[Result]) -> dict[tuple[str, float], list[Result]]:
    return _by(results, "setting", "budget")


def _title(setting: str) -> str:
    """ "ddim 100 uniform" as "100 steps, uniform"."""
    name, steps, spacing = setting.split(maxsplit=2)
    return f"{steps} steps, {spacing}" if name == "ddim" else f"{steps} {name} steps, {spacing}"


def _order(result: Result) -> tuple[Any, ...]:
    name, steps, spacing = result["setting"].split(maxsplit=2)
    return name, spacing, -int(steps), -result["budget"], -result["psnr"]


def _errors(row: Result) -> list[str]:
    to_target = ["0", ""] if row["group"] == "uncached" else [f"{row['mse']:.2e}", f"{row['psnr']:.2f}"]
    return [*to_target, f"{row['psnr_solution']:.2f}"]
