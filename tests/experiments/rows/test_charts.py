"""Heat maps and plots of quality against cost: what is drawn, not how it looks."""

import pytest
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from experiments.rows.charts import HeatMap, Mark, Style, heat_maps, trade_offs
from experiments.rows.measures import MEASURES

PSNR, FRECHET = MEASURES["psnr_mean"], MEASURES["frechet"]
COSTS = [MEASURES["macs_per_image"], MEASURES["seconds_per_image"]]
AXES = {"policy.interval": ["2", "5"], "policy.branch": ["0", "1", "10"], "forecaster": ["reuse", "lagrange order=1"]}


def heat_map(values=(40.0, 30.0)) -> HeatMap:
    cells = {
        ("2", "0"): (values[0], "a"),
        ("2", "1"): (values[1], "b"),
        ("5", "0"): (None, "failed"),
        ("5", "1"): (None, "="),
    }
    return HeatMap("steps 50", ["0", "1"], ["2", "5"], cells)


def words(figure: Figure) -> list[str]:
    return [text.get_text() for panel in figure.axes for text in panel.texts]


def marks(axes=AXES) -> list[Mark]:
    """Quality falls with the interval; the branch costs."""
    return [
        Mark((1e9 * (1 + int(branch)) / int(interval), 1.0 / int(interval)), 50 - int(interval) - (forecast == "reuse"),
             {"policy.interval": interval, "policy.branch": branch, "forecaster": forecast})
        for interval in axes["policy.interval"] for branch in axes["policy.branch"] for forecast in axes["forecaster"]
    ]  # fmt: skip


def test_a_heat_map_prints_every_value_and_what_became_of_the_others():
    figure = heat_maps([heat_map()], ("branch", "interval"), PSNR)
    assert words(figure) == ["a", "b", "failed", "="]
    panel, bar = figure.axes
    assert (panel.get_xlabel(), panel.get_ylabel(), panel.get_title()) == ("branch", "interval", "steps 50")
    assert "dB" in bar.get_ylabel()
    assert panel.images[0].get_array().mask.tolist() == [[False, False], [True, True]]


def test_several_maps_share_one_scale():
    figure = heat_maps([heat_map((40, 30)), heat_map((20, 10))], ("branch", "interval"), PSNR)
    assert {panel.images[0].norm for panel in figure.axes[:2]} == {figure.axes[0].images[0].norm}
    assert (figure.axes[0].images[0].norm.vmin, figure.axes[0].images[0].norm.vmax) == (10, 40)


def test_bright_is_good_and_wide_ranges_are_logarithmic():
    (better, worse), figures = ("viridis", "viridis_r"), {}
    for measure in (PSNR, FRECHET):
        figures[measure] = heat_maps([heat_map((0.1, 10.0))], ("x", "y"), measure).axes[0].images[0]
    assert figures[PSNR].cmap.name == better
    assert figures[FRECHET].cmap.name == worse
    assert isinstance(figures[FRECHET].norm, LogNorm)
    assert not isinstance(heat_maps([heat_map()], ("x", "y"), PSNR).axes[0].images[0].norm, LogNorm)


def test_text_stands_out_from_its_cell():
    dark, bright = heat_maps([heat_map((0.0, 1.0))], ("x", "y"), PSNR).axes[0].texts[:2]
    assert (dark.get_color(), bright.get_color()) == ("white", "black")


def test_a_map_without_any_value_is_still_drawn():
    heat_maps([HeatMap("", ["0"], ["2"], {("2", "0"): (None, "failed")})], ("x", "y"), PSNR).canvas.draw()


def test_the_longest_axis_of_numbers_is_drawn_as_lines():
    assert Style.of(AXES) == Style("policy.interval", "forecaster", "policy.branch")
    assert Style.of({"policy": ["a", "b", "c"], "forecaster": ["d", "e"]}) == Style("forecaster", "policy", None)
    assert Style.of({"policy.interval": ["2", "3"]}) == Style(None, None, "policy.interval")


def test_trade_offs_have_units_lines_along_an_axis_and_a_legend():
    figure = trade_offs(marks(), COSTS, PSNR, AXES)
    left, right = figure.axes
    assert left.get_ylabel() == PSNR.label
    assert (left.get_xlabel(), right.get_xlabel()) == ("MACs per image (G)", "time per image (ms)")
    front, *lines = left.get_lines()
    assert len(lines) == 2 * 2  # interval and forecaster
    assert lines[0].get_xdata().tolist() == pytest.approx([0.5, 1.0, 5.5])  # G, branches 0, 1, 10
    assert left.get_xscale() == "log"  # 0.2 to 5.5
    assert right.get_xscale() == "linear"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == ["policy.interval", "2", "5", "forecaster", "reuse", "lagrange order=1",
                      "lines: along policy.branch", "best at its cost"]  # fmt: skip
    assert front.get_linestyle() == "--"
    figure.canvas.draw()


def test_the_dashed_line_joins_what_nothing_beats_at_its_cost():
    made = [
        Mark((cost * 1e9, 1.0), quality, {"a": str(i)}) for i, (cost, quality) in enumerate([(1, 30), (2, 20), (3, 40)])
    ]
    axes = {"a": ["0", "1", "2"]}
    assert trade_offs(made, COSTS, PSNR, axes).axes[0].get_lines()[0].get_ydata().tolist() == [30, 40]
    assert trade_offs(made, COSTS, FRECHET, axes).axes[0].get_lines()[0].get_ydata().tolist() == [30, 20]


def test_values_that_no_result_has_are_not_in_the_legend():
    some = [mark for mark in marks() if mark.at["forecaster"] == "reuse"]
    labels = [text.get_text() for text in trade_offs(some, COSTS, PSNR, AXES).legends[0].get_texts()]
    assert "lagrange order=1" not in labels
