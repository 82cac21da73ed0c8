"""configs/tables: what the paper prints, and the runs that it is printed for."""

from pathlib import Path

import pytest

import configs
from configs import InputError
from experiments.paper.paper_tables import Column, PaperTable, Section, load_table, names, printed_macs
from experiments.rows.pricing import price

PAPER = configs.ROOT.parent / "shared" / "paper" / "tables.yaml"
# What the source says beside the figures of a table.
BESIDE = {"method", "model", "dataset", "fid_official", "is_official", "released_ddpm_code_branch_arg",
          "macs_recomputed_from_released_code_G"}  # fmt: skip
SETTINGS = {"N": "interval", "center": "center", "power": "power"}


def printed_rows(content) -> list[dict]:
    """All rows of a table of the source, in order."""
    if isinstance(content, list):
        return content
    return [row for name, part in content.items() if isinstance(part, list) for row in part]


def test_there_are_fourteen_tables():
    assert names() == [f"table{i}" for i in range(1, 15)]


@pytest.mark.parametrize("name", names())
def test_every_run_is_a_valid_configuration(name):
    table = load_table(name)
    for section in table.sections:
        for entry in section.rows:
            assert entry.quoted or entry.changes, entry.name
            for change in entry.changes.values():
                assert section.config(change).forecaster["name"] in ("reuse", "zero")


@pytest.mark.parametrize("name", names())
def test_figures_are_those_of_the_paper(name):
    if not PAPER.exists():
        pytest.skip("the paper's figures are not beside this checkout")
    source = configs.read(PAPER)
    (key,) = [key for key in source if key.startswith(f"{name}_")]
    printed = printed_rows(source[key])
    if name == "table10":  # its last list is the grid that was searched
        printed = printed[:14]
    entries = list(load_table(name).entries)
    assert len(entries) == len(printed)
    for entry, row in zip(entries, printed, strict=True):
        assert entry.paper == {key: value for key, value in row.items() if key not in BESIDE and value is not None}


@pytest.mark.parametrize("name", names())
def test_runs_are_what_their_rows_are_labelled_with(name):
    table = load_table(name)
    for section in table.sections:
        for entry in section.rows:
            for run, change in entry.changes.items():
                policy = change.get("policy", {})
                for key, setting in SETTINGS.items():
                    if key in entry.paper and setting in policy:
                        assert policy[setting] == entry.paper[key], entry.name
                if "skip_branch" in entry.paper:
                    assert policy["branch"] == entry.paper["skip_branch"] - 1
                if "full_steps" in entry.paper:
                    config = section.config(change)
                    made = config.sampler.steps / policy.get("interval", 1)
                    assert made == entry.paper["full_steps"], run
                if run == "plms":
                    assert change["sampler"]["steps"] == entry.paper["plms_steps"]
                if "N=" in entry.name and "interval" in policy:
                    assert entry.name.endswith(f"N={policy['interval']}")


def test_columns_name_runs_that_their_rows_have():
    for name in names():
        table = load_table(name)
        known = {run for entry in table.entries for run in entry.changes}
        wanted = {run for column in table.columns if column.metric for run in column.run.split(" - ")}
        assert wanted <= known, name


def test_hyper_parameters_of_table_9_and_10_are_those_of_the_tables_that_use_them():
    chosen = {row.paper["N"]: (row.paper["center"], row.paper["power"]) for row in load_table("table9").entries}
    for row in load_table("table11").entries:
        policy = (row.run or {}).get("policy", {})
        if policy.get("name") == "nonuniform" and policy["interval"] != 20:  # which is Table 7's c = 80
            assert chosen[policy["interval"]] == (policy["center"], policy["power"])
    for section, name in zip(load_table("table10").sections, ("table13", "table14"), strict=True):
        chosen = {row.paper["N"]: row.run["policy"] for row in section.rows}
        used = {
            row.paper["N"]: row.runs["nonuniform"]["policy"] for row in load_table(name).entries if row.paper["N"] > 1
        }
        assert used == chosen


def test_hyper_parameter_tables_are_never_sampled():
    assert [name for name in names() if not load_table(name).is_sampled] == ["table9", "table10"]


def test_figures_under_no_column_are_refused():
    rows = [{"name": "a", "paper": {"fjd": 1.0}}]
    with pytest.raises(InputError, match="did you mean 'fid'"):
        configs.parse(
            PaperTable,
            {"title": "t", "columns": [{"name": "FID", "key": "fid"}],
             "sections": [{"name": "s", "base": {"model": "mnist32"}, "rows": rows}]},
            where="test",
        )  # fmt: skip


def test_an_unknown_metric_is_refused():
    with pytest.raises(InputError, match="did you mean 'macs'"):
        Column("G MACs", metric="mac")


def test_an_unknown_key_of_a_run_is_refused():
    with pytest.raises(InputError, match=r"sampler\.stepz"):
        Section("s", {"model": "mnist32"}).config({"sampler": {"stepz": 3}})


def test_an_unknown_table_is_refused():
    with pytest.raises(InputError, match="did you mean 'table2'"):
        load_table("tabel2")


def rounding(printed: float) -> float:
    return 0.5 * 10 ** -len(str(printed).partition(".")[2])


@pytest.mark.parametrize(
    ("model", "deviating"),
    [("cifar10", {"m=6", "m=7", "m=8"}), ("lsun256", set()), ("ldm_cin256_v2", set()), ("sd_v1", {"DeepCache N=5"})],
)
def test_macs_follow_but_for_rows_in_which_the_paper_deviates_from_itself(model, deviating):
    printed = printed_macs(model)
    assert printed
    off = {
        each.row
        for each in printed
        if abs(price(each.config).macs_per_step / 1e9 - each.macs) > rounding(each.macs) + 0.0055
    }
    assert off == deviating


def test_table_12_covers_every_branch():
    branches = {each.config.policy.get("branch") for each in printed_macs("cifar10") if each.table == "table12"}
    assert branches == set(range(12))


def test_where_table_3_should_be():
    (odd,) = [each for each in printed_macs("sd_v1") if each.config.policy["name"] != "none"]
    assert odd.macs == 130.45
    assert price(odd.config).macs_per_step / 1e9 == pytest.approx(113.63, abs=0.005)


def test_a_table_may_be_a_file_of_ones_own(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("title: Mine\nsections: [{name: s, base: {model: mnist32}, rows: [{name: a, run: {}}]}]\n")
    assert next(load_table(str(path)).entries).name == "a"


def test_a_column_of_a_run_that_no_row_has_is_refused(tmp_path: Path):
    path = tmp_path / "mine.yaml"
    path.write_text("""
title: Mine
columns: [{name: FID, metric: fid, run: cached}, {name: PSNR, metric: psnr, run: cache}]
sections: [{name: s, base: {model: mnist32}, rows: [{name: a, runs: {cached: {}, plain: {}}}]}]
""")
    with pytest.raises(InputError, match="the run of the column 'PSNR' 'cache' does not exist; did you mean 'cached'"):
        load_table(str(path))
