"""What is shown of the frontier, from results that are made up."""

import numpy as np
import pytest

from experiments.planning import frontier_page
from experiments.planning.contenders import GROUPS, OWN


def results() -> list[dict]:
    """One row of every group at two budgets, and four of one's own."""
    at = {"setting": "ddim 10 uniform", "mse": 0.1, "psnr_solution": 20.0, "seeds": [0, 4]}
    rows = [
        at | {"budget": budget, "macs": budget, "group": group, "name": group, "psnr": 30 + i, "calls": (3, 2, 5)}
        for budget in (0.3, 0.5)
        for i, group in enumerate(GROUPS)
        if group != OWN
    ]
    return rows + [
        at | {"budget": None, "macs": macs, "group": OWN, "name": f"mine {macs}", "psnr": 40.0 + macs}
        for macs in (0.2, 0.4, 0.45, 0.9)
    ]


def test_own_rows_stand_at_the_smallest_budget_they_keep():
    shown = frontier_page.ordered(results())
    budgets = {row["macs"]: row["budget"] for row in shown if row["group"] == OWN}
    assert budgets == {0.2: 0.3, 0.4: 0.5, 0.45: 0.5, 0.9: np.inf}
    lines = frontier_page.summary(shown)
    assert lines[2].split("|")[-3].strip() == "3 / 2 / 5"
    assert lines[2].split("|")[-2].strip() == "+4.0"
    assert lines[-6].startswith(f"| {OWN}")
    assert sorted(float(line.split("|")[3].strip(" %")) for line in lines[-4:]) == [20, 40, 45, 90]


def test_the_picture_has_a_line_per_group_and_ticks_at_the_budgets():
    figure = frontier_page.picture(frontier_page.ordered(results()))
    (axes,) = figure.axes
    assert axes.get_title() == "10 steps, uniform"
    assert [*axes.get_xticks()] == [30, 50]
    lines = {line.get_color(): [*line.get_xdata()] for line in axes.get_lines() if line.get_linestyle() == "-"}
    drawn = [lines[frontier_page.STYLES[group].colour] for group in GROUPS if group != OWN]
    assert drawn == [[30, 50]] * len(drawn)
    stars = next(line for line in axes.get_lines() if line.get_marker() == "*")
    assert [*stars.get_xdata()] == pytest.approx([20, 40, 45, 90])
    looks = {(style.colour, style.marker) for style in frontier_page.STYLES.values()}
    assert len({colour for colour, _ in looks}) == len({marker for _, marker in looks}) == len(GROUPS)
