"""Tables and plot, from lines alone."""

import re

import pytest

from experiments.benchmark import plot
from experiments.benchmark.render import baselines, case_table, partial_ratios, ratio_to, report


def row(variant, what, seconds, macs=100, precision="fp32", full=None, **others):
    return {
        "case": "tiny, batch 1", "identity": "1", "hardware": "a chip", "threads": 1, "tf32": None,
        "clock": "process CPU time", "versions": {"torch": "2.6"}, "checkpoint": "random", "variant": variant,
        "engine": variant.split()[0], "precision": precision, "what": what, "full": full, "seconds": seconds,
        "times": [seconds], "spread": 0.0, "macs": macs, "flops": 2e9, "share": 0.5, "error": 0.0, "peak_bytes": None,
        "store_bytes": None, **others,
    }  # fmt: skip


ROWS = [
    row("plain", "full pass", 4.0),
    row("fast", "full pass", 2.0, error=1e-6),
    row("fast bf16", "full pass", 1.0, precision="bf16"),
    row("diffusers", "full pass", 6.0),
    row("diffusers compiled bf16", "full pass", 3.0, precision="bf16"),
    row("plain", "branch 0", 1.0, 20, full="full pass"),
    row("fast", "branch 0", 0.2, 10, full="full pass", peak_bytes=3 * 2**20, store_bytes=2**31),
]


def test_ratios_say_how_many_times_as_fast():
    plain, fast, _, diffusers, *_ = ROWS
    assert ratio_to(fast, "plain", ROWS) == 2
    assert ratio_to(fast, "diffusers", ROWS) == 3
    assert ratio_to(diffusers, "plain", ROWS) == pytest.approx(4 / 6)
    assert ratio_to(plain, "plain", ROWS) is None
    assert ratio_to(ROWS[-1], "plain", ROWS) == 5


def test_the_first_variant_is_compared_with_across_precisions_and_peers_within_one():
    bf16 = ROWS[2]
    assert ratio_to(bf16, "plain", ROWS) == 4
    assert ratio_to(bf16, "diffusers", ROWS) is None
    assert ratio_to(bf16, "diffusers compiled", ROWS) == 3
    assert baselines(ROWS) == ["plain", "diffusers", "diffusers compiled"]


def test_time_is_laid_beside_macs_within_a_variant():
    assert partial_ratios(ROWS[-2], ROWS) == (0.25, 0.2)
    assert partial_ratios(ROWS[-1], ROWS) == (0.1, 0.1)
    assert partial_ratios(ROWS[0], ROWS) is None


def test_ratios_are_taken_round_by_round():
    plain = row("plain", "full pass", 3.0, times=[1.0, 3.0, 10.0])  # on a machine that slows down
    fast = row("fast", "full pass", 2.0, times=[0.5, 2.0, 5.0])
    assert ratio_to(fast, "plain", [plain, fast]) == 2
    part = row("fast", "branch 0", 1.0, 25, full="full pass", times=[0.1, 0.5, 4.0])
    assert partial_ratios(part, [plain, fast, part]) == (0.25, 0.25)


def test_the_table_holds_them_and_what_was_left_out():
    skipped = {key: ROWS[0][key] for key in ("case", "identity", "hardware", "threads", "tf32", "clock", "versions",
                                             "checkpoint")}  # fmt: skip
    text = case_table([*ROWS, skipped | {"variant": "deepcache", "skipped": "DeepCache is not installed"}])
    assert "a chip, 1 thread, process CPU time; torch 2.6; checkpoint random." in text
    assert "- deepcache left out: DeepCache is not installed" in text
    cells = [re.split(r"\s*\|\s*", line)[1:-1] for line in text.splitlines() if line.startswith("| branch 0")]
    assert cells[0][:5] == ["branch 0", "plain", "1 s ± 0%", "2", "50%"]
    assert cells[0][-5:] == ["0.250 / 0.200", "1.25", "0", "", ""]
    assert cells[1][-5:] == ["0.100 / 0.100", "1.00", "0", "3.0 MiB", "2.00 GiB"]


def test_a_case_without_a_single_measurement_says_why():
    skipped = {**ROWS[0], "variant": "deepcache", "skipped": "no"}
    del skipped["engine"]
    assert "deepcache left out: no" in report([skipped])


def test_the_plot_has_a_panel_per_case_and_a_bar_per_measurement():
    other = [dict(line, case="tiny, batch 8") for line in ROWS[:2]]
    panels = plot.figure([*ROWS, *other]).axes
    assert [axes.get_title(loc="left") for axes in panels] == ["tiny, batch 1", "tiny, batch 8"]
    assert sorted(bar.get_height() for bar in panels[0].patches) == [0.05, 0.25, 0.25, 0.5, 0.75, 1.0, 1.5]
    marks = [line.get_ydata()[0] for line in panels[0].lines]
    assert marks == pytest.approx([0.2, 0.05])  # full pass times MACs ratio


def test_the_plot_of_nothing_is_empty():
    assert len(plot.figure([]).axes) == 1
