"""Plots of the paper's tables."""

import pytest

from experiments.paper.filling import Cell, FilledRow
from experiments.paper.paper_tables import Column
from experiments.paper.profiles import profiles

COLUMNS = [Column("N"), Column("G MACs", "macs_G", "macs"), Column("FID", "fid", "fid"), Column("PSNR", metric="psnr")]
NAMES = ["N", "G MACs", "FD", "PSNR"]


def row(name: str, macs: float, fid: float | None = None, psnr: float | None = None) -> FilledRow:
    return FilledRow(name, [Cell(2), Cell(macs + 0.1, macs), Cell(4.2, fid), Cell(None, psnr)], [])


def panels(rows, comparable=True):
    return {axes.get_title(): axes for axes in profiles(COLUMNS, NAMES, rows, comparable).axes if axes.get_title()}


def test_there_is_a_panel_for_every_figure_that_two_rows_have():
    drawn = panels([row("a", 1.0, 9.0), row("b", 2.0, 8.0, psnr=30.0)])
    assert list(drawn) == ["FD", "G MACs"]
    assert [label.get_text() for label in drawn["FD"].get_xticklabels()] == ["a", "b"]
    assert list(drawn["FD"].lines[0].get_ydata()) == [9.0, 8.0]


def test_without_figures_there_is_no_plot():
    assert profiles(COLUMNS, NAMES, [row("a", 1.0)], True) is None


@pytest.mark.parametrize("comparable", [True, False])
def test_figures_of_another_model_have_an_axis_of_their_own(comparable):
    drawn = panels([row("a", 1.0), row("b", 2.0)], comparable)["G MACs"]
    assert len(drawn.lines) == (2 if comparable else 1)
    assert len(drawn.figure.axes) == (1 if comparable else 2)


def test_infinite_figures_are_left_out():
    rows = [row("a", 1.0, psnr=float("inf")), row("b", 2.0, psnr=30.0), row("c", 3.0, psnr=31.0)]
    assert list(panels(rows)["PSNR"].lines[0].get_xdata()) == [1, 2]
