"""scripts/reproduce.py: what is priced, what is run, what is written."""

import csv
import json
import re
import shlex
from functools import partial
from pathlib import Path

import pytest

import configs
from caching import POLICIES
from configs import InputError
from experiments.cli import main
from experiments.paper.filling import Cell, Place, fill, runs
from experiments.paper.paper_tables import load_table, names
from experiments.paper.reproduce import ReproduceConfig, reproduce
from experiments.paper.sheets import sheet
from experiments.paper.transfer import transfer
from experiments.plugins import load
from experiments.rows.results import Result

TABLE = """
title: "Table 0: two ways"
columns:
  - {key: N, name: N, digits: 0}
  - {key: macs_G, name: G MACs, metric: macs}
  - {key: throughput, name: images/s, metric: throughput}
  - {name: speed-up, metric: speedup}
  - {key: fid, name: FID, metric: fid}
  - {name: PSNR, metric: psnr}
sections:
  - name: tiny
    base:
      {model: MODEL, checkpoint: random, sampler: {name: ddim, steps: 4}, forecaster: {name: reuse}, num_images: 3,
       batch_size: 2}
    rows:
      - {name: other work, quoted: true, run: {}, paper: {macs_G: 0.5, fid: 9.9}}
      - {name: uncached, run: {}, paper: {macs_G: 0.1, throughput: 4.0, fid: 4.16}}
      - name: cached
        run: {policy: {name: uniform, interval: 2, branch: 1}}
        note: Not as printed.
        paper: {N: 2, macs_G: 0.1, throughput: 8.0, fid: 4.35}
notes: [One network.]
"""


MINE = """
from dataclasses import dataclass
from caching import partial_between, register

@register("first")
@dataclass(frozen=True)
class First:
    count: int = 1

    def plan(self, num_evals):
        return partial_between(range(self.count), 0, num_evals)
"""


def _forgotten(monkeypatch: pytest.MonkeyPatch, files: list[str]) -> None:
    """Loads files with a policy `first` that is forgotten after the test."""
    monkeypatch.setitem(POLICIES, "first", None)
    monkeypatch.delitem(POLICIES, "first")
    load(files)


@pytest.fixture
def table(tiny: str, tmp_path: Path) -> str:
    path = tmp_path / "table0.yaml"
    path.write_text(TABLE.replace("MODEL", tiny))
    return str(path)


def config_of(table: str, tmp_path: Path, **settings) -> ReproduceConfig:
    folders = {"out": str(tmp_path / "out"), "samples": str(tmp_path / "samples"), "device": "cpu"}
    return ReproduceConfig(table=table, **folders | settings)


def cells(name: str, key: str, **changes) -> dict[str, Cell]:
    """The cells of one column of a table without results, by row; rows of later sections are marked with it."""
    moved = transfer(load_table(name), changes)
    (index,) = [i for i, column in enumerate(moved.table.columns) if key in (column.key, column.name)]
    return {
        f"{row.name} {s or ''}".strip(): row.cells[index]
        for s, rows in enumerate(fill(moved.table, {}))
        for row in rows
    }


def rounding(printed: float) -> float:
    return 0.5 * 10 ** -len(str(printed).partition(".")[2])


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_macs_of_tables_1_and_2_follow(name):
    compared = [cell for cell in cells(name, "macs_G").values() if cell.here is not None]
    assert len(compared) == {"table1": 9, "table2": 16}[name]
    for cell in compared:
        assert abs(cell.difference) <= rounding(cell.paper) + 0.01


def test_macs_of_table_12_follow_but_for_three_rows():
    for name, cell in cells("table12", "macs_G").items():
        expected = {"m=6": 0.015, "m=7": 0.124, "m=8": 0.132}.get(name)
        if expected is None:
            assert abs(cell.difference) <= 0.0105, name
        else:
            assert cell.difference == pytest.approx(expected, abs=6e-4)


def test_table_3_counts_as_the_paper_does_and_notes_what_does_not_follow():
    compared = cells("table3", "macs_G")
    assert compared["PLMS 50"].here == pytest.approx(338.83, abs=0.005)
    assert compared["PLMS 25"].here == pytest.approx(169.42, abs=0.005)
    assert compared["DeepCache N=5"].here == pytest.approx(113.63, abs=0.005)
    made = sheet(transfer(load_table("table3"), {}), {})
    line = next(line for line in made.sections[0][1] if line.name == "DeepCache N=5")
    assert [made.footnotes[mark - 1][:6] for mark in line.marks] == ["130.45"]


def test_equal_rows_of_different_tables_cost_the_same():
    table1, table2 = cells("table1", "macs_G"), cells("table2", "macs_G")
    table6, table11 = cells("table6", "G MACs, DeepCache"), cells("table11", "G MACs")
    assert [table6[f"N={n}"].here for n in (2, 5, 10)] == [table2[f"DeepCache N={n}"].here for n in (2, 5, 10)]
    assert table2["DeepCache N=5"].here == cells("table12", "macs_G")["m=3"].here
    for n in (2, 3, 5, 10, 20):
        assert table11[f"uniform N={n}"].here == table11[f"nonuniform N={n}"].here
        assert table11[f"uniform N={n}"].here == table1[f"DeepCache uniform N={n}"].here
    for name in ("table7", "table8"):
        assert {cell.here for cell in cells(name, "G MACs").values()} == {table11["uniform N=20"].here}


def test_fewer_steps_are_priced_over_the_full_number():
    compared = cells("table6", "G MACs, DDIM")
    full = cells("table2", "macs_G")["DDPM*"].here
    assert [compared[f"N={n}"].here for n in (2, 5, 10)] == pytest.approx([full / n for n in (2, 5, 10)])
    table4 = cells("table4", "G MACs")  # 59 and 91 steps make 63 and 100
    uncached = cells("table1", "macs_G")["LDM-4*"].here
    assert table4["DDIM 59 steps"].here == pytest.approx(uncached * 63 / 250)
    assert table4["DDIM 91 steps"].here == pytest.approx(uncached * 100 / 250)


def test_theoretical_speedup_counts_every_network_call():
    assert cells("table3", "theoretical speed-up")["PLMS 25"].here == pytest.approx(51 / 26)
    assert cells("table2", "theoretical speed-up")["DDPM*"].here == 1


def test_schedules_are_those_of_the_released_code():
    shown = cells("table10", "full passes")
    assert shown["N=5"].here == "0 4 7 10 14 19 24 30 36 43"
    assert shown["N=5 1"].here == "0 5 10 14 17 22 26 32 37 43"
    assert cells("table9", "full passes")["N=20"].here == "0 22 42 61 80 98 115 131 149 168 187 207 228"


@pytest.mark.parametrize("name", names())
def test_rows_of_other_work_are_never_run(name):
    table = load_table(name)
    for place, _ in runs(table):
        assert place.row == -1 or not table.sections[place.section].rows[place.row].quoted


def test_all_tables_are_priced_without_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.paper.reproduce.execute", None)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    made = reproduce(ReproduceConfig(all=True, cost_only=True, out=str(tmp_path / "out")))
    assert [table.name for table in made] == names()
    for name in names():
        text = (tmp_path / "out" / f"{name}-costs.md").read_text(encoding="utf-8")
        assert text.startswith(f"# Table {name.removeprefix('table')}: ")
        assert "`python scripts/reproduce.py --all --cost-only" in text
        with (tmp_path / "out" / f"{name}-costs.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == len(list(load_table(name).entries))
        assert None not in {key for row in rows for key in row}
        assert (tmp_path / "out" / f"{name}-costs.tex").read_text(encoding="utf-8").count("\\begin{tabular}") == 1
    page = (tmp_path / "out" / "tables-costs.html").read_text(encoding="utf-8")
    assert all(f"Table {number}:" in page for number in range(1, 15))


def test_a_table_is_run_once_and_written_in_every_form(table, tmp_path):
    (made,) = reproduce(config_of(table, tmp_path, checkpoint="random"))
    assert not made.failures
    with (tmp_path / "out" / "table0-random.csv").open(newline="") as file:
        rows = {row["row"]: row for row in csv.DictReader(file)}
    assert float(rows["cached"]["images/s, here"]) > 0
    assert float(rows["cached"]["images/s, here - paper"]) == pytest.approx(
        float(rows["cached"]["images/s, here"]) - 8.0
    )
    assert float(rows["uncached"]["speed-up"]) == 1
    assert rows["other work"]["images/s, here"] == ""
    assert float(rows["other work"]["G MACs, here"]) > 0, "what is quoted is priced where it can be"
    assert not any(name.startswith(("PSNR", "FID, here")) for name in rows["cached"]), "random images are not judged"
    text = (tmp_path / "out" / "table0-random.md").read_text()
    assert "[1] Not as printed." in text
    assert "Random weights" in text
    assert len(list((tmp_path / "out" / "results").iterdir())) == 2
    (again,) = reproduce(config_of(table, tmp_path, checkpoint="random"))
    assert again.results == made.results


@pytest.mark.parametrize("cost_only", [True, False])
def test_a_row_that_no_run_can_have_is_named_before_anything_is_run(table, tmp_path, cost_only):
    path = Path(table)
    path.write_text(path.read_text().replace("interval: 2, branch: 1", "interval: 2, branch: 77"))
    with pytest.raises(InputError, match="table0, row 'cached': evaluation 1 is planned at branch 77"):
        reproduce(config_of(table, tmp_path, cost_only=cost_only))
    assert not (tmp_path / "out").exists()


def test_real_images_that_are_not_there_are_missed_before_anything_is_run(table, tmp_path):
    with pytest.raises(InputError, match=r"that exists, not .*nowhere\.npz"):
        reproduce(config_of(table, tmp_path, data=str(tmp_path / "nowhere.npz")))
    assert not (tmp_path / "out").exists()


def test_prompts_are_those_of_one_section_and_enough_for_its_images(tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a cat\na dog\n")
    with pytest.raises(InputError, match=r"prompts=.* is for one data set, but table3 has several sections"):
        reproduce(config_of("table3", tmp_path, prompts=str(prompts)))
    with pytest.raises(InputError, match=r"prompts\.txt has 2 prompts for 5000 images; give num_images=2, or a file"):
        reproduce(config_of("table3", tmp_path, prompts=str(prompts), sections=["COCO 2017"], checkpoint="none.pt"))
    with pytest.raises(InputError, match=r"there is no checkpoint none\.pt"):
        reproduce(config_of("table3", tmp_path, prompts=str(prompts), sections=["COCO 2017"], checkpoint="none.pt",
                            num_images=2))  # fmt: skip


def test_policies_of_one_s_own_are_run_and_named_in_the_command(table, tmp_path, monkeypatch):
    path, mine = Path(table), tmp_path / "mine.py"
    mine.write_text(MINE)
    monkeypatch.setattr("experiments.cli.plugins.load", partial(_forgotten, monkeypatch))
    path.write_text(path.read_text().replace("{name: uniform, interval: 2, branch: 1}", "{name: first, count: 2}"))
    monkeypatch.chdir(tmp_path)
    words = [table, "import=mine.py", "out=out", "samples=samples", "device=cpu"]
    main(reproduce, ReproduceConfig, argument="table", doc="", words=words)
    assert f"Made by `python scripts/reproduce.py {table} import=mine.py out=out`." in Path("out/table0.md").read_text()


def test_a_section_without_a_checkpoint_leaves_its_costs(table, tmp_path):
    path = Path(table)
    content = configs.read(path)
    (tiny,) = content["sections"]
    content["sections"].append({**tiny, "name": "lost", "base": {**tiny["base"], "checkpoint": "none.pt"}})
    path.write_text(json.dumps(content))
    (made,) = reproduce(config_of(table, tmp_path))
    assert set(made.failures) == {"table0, uncached", "table0, cached"}
    assert all("none.pt" in sentence for sentence in made.failures.values())
    text = (tmp_path / "out" / "table0.md").read_text()
    assert re.search(r"\[\d\] The row failed: there is no checkpoint none\.pt", text)
    assert "G MACs, here" in text


@pytest.mark.parametrize("cost_only", [True, False])
@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"batch_size": -1}, "batch_size must be at least 1, not -1"),
        ({"precision": "fp8"}, "precision 'fp8' does not exist"),
        ({"seed": -1}, "seed=-1 does not leave room"),
        ({"steps": 10**6}, "nothing of 'Table 0: two ways' can be run; the first: uncached is left out: "),
    ],
)
def test_what_no_row_can_have_writes_nothing(table, tiny, tmp_path, settings, sentence, cost_only):
    other = tmp_path / "other.yaml"
    other.write_text(Path(tiny).read_text())
    with pytest.raises(InputError, match=sentence):
        reproduce(config_of(table, tmp_path, model=str(other), cost_only=cost_only, **settings))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("settings", [{"checkpoint": "none.pt"}, {"prompts": "none.txt", "checkpoint": "random"}])
def test_where_no_row_can_begin_nothing_is_written(table, tmp_path, settings):
    with pytest.raises(InputError, match=r"none\.(pt|txt)"):
        reproduce(config_of(table, tmp_path, **settings))
    assert not (tmp_path / "out").exists()


def test_of_all_tables_one_without_a_checkpoint_stays_as_it_was(table, tmp_path, monkeypatch):
    lost = tmp_path / "lost.yaml"
    lost.write_text(Path(table).read_text().replace("checkpoint: random", "checkpoint: none.pt"))
    monkeypatch.setattr("experiments.paper.reproduce.names", lambda: [table, str(lost)])
    earlier = tmp_path / "out" / "lost.md"
    earlier.parent.mkdir()
    earlier.write_text("good figures")
    _, made = reproduce(config_of(None, tmp_path, all=True))
    assert len(made.failures) == 2
    assert earlier.read_text() == "good figures"
    assert "none.pt" in earlier.with_suffix(".tex").read_text(), "where there was nothing, the costs are written"
    assert (tmp_path / "out" / "table0.md").exists()
    assert "none.pt" in (tmp_path / "out" / "tables.html").read_text(encoding="utf-8")


def test_the_digits_get_every_column_that_can_be_had(tmp_path):
    real = tmp_path / "samples"  # any digits will do
    settings = {"model": "mnist32", "steps": 10, "num_images": 4, "batch_size": 4}
    config = config_of("table6", tmp_path, **settings)
    (tmp_path / "nothing").mkdir()
    (made,) = reproduce(ReproduceConfig(**{**vars(config), "data": str(tmp_path / "nothing")}))
    assert not made.failures
    uncached = made.results[Place(0, -1)]
    (made,) = reproduce(ReproduceConfig(**{**vars(config), "data": str(real / uncached.key / "none")}))
    text = (tmp_path / "out" / "table6-mnist32.md").read_text()
    assert text.startswith("# Table 6: shallow passes against fewer steps, CIFAR-10; here mnist32, 10 steps\n")
    assert "FD, DeepCache, here" in text, "no FID: the features are another network's"
    assert "here - paper" not in text
    assert "mnist_classifier" in text
    assert re.search(r"^\| uncached, 10 steps +\|", text, re.MULTILINE), "what the rows are compared with"
    page = (tmp_path / "out" / "table6-mnist32.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 7 * 4 + 1, "the images of every run, and a plot"


def test_sections_that_are_not_asked_for_show_what_there_is(table, tmp_path):
    path = Path(table)
    content = configs.read(path)
    content["sections"].append(
        {**content["sections"][0], "name": "second", "base": {**content["sections"][0]["base"], "seed": 9}}
    )
    path.write_text(json.dumps(content))
    (first,) = reproduce(config_of(table, tmp_path, sections=["tiny"]))
    assert {place.section for place in first.results} == {0}
    (second,) = reproduce(config_of(table, tmp_path, sections=["second"]))
    assert {place.section for place in second.results} == {0, 1}
    with pytest.raises(InputError, match="is for one data set"):
        reproduce(config_of(table, tmp_path, data="mnist"))
    with pytest.raises(InputError, match="did you mean 'second'"):
        reproduce(config_of(table, tmp_path, sections=["secnod"]))


def test_identical_images_are_infinitely_close(table):
    moved = transfer(load_table(table), {})
    config = {"num_images": 3}
    results = {Place(0, 2): Result("cached", "k", config, metrics={"identical": 3, "images_per_second": 1.0})}
    results[Place(0, 2)].environment.update(device="cpu", precision="fp32", threads=1, torch="2")
    results[Place(0, 2)].config.update(seed=0, batch_size=1)
    assert sheet(moved, results).sections[0][1][2].cells[-1] == "∞"


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["tabel2"], "did you mean 'table2'"),
        ([], "name either a table or --all"),
        (["table2", "--all"], "name either a table or --all"),
        (["table2", "--cost-onyl"], "did you mean 'cost_only'"),
        (["table2", "model=mnist32", "sections=[tiny]"], "on another model leave them out"),
        (["table2", "sections=[]"], "sections must name at least one"),
        (["table2", "model=cifar", "--cost-only"], "there is no configuration 'cifar'"),
    ],
)
def test_bad_words_end_in_one_sentence(words, sentence, capsys):
    with pytest.raises(SystemExit) as ended:
        main(reproduce, ReproduceConfig, argument="table", doc="", words=words)
    assert ended.value.code == 2
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1


def test_flags_are_keys():
    seen = []
    main(seen.append, ReproduceConfig, argument="table", doc="", words=["--cost-only", "--all", "--num-images=5"])
    assert seen == [ReproduceConfig(all=True, cost_only=True, num_images=5)]


def test_the_command_makes_the_same():
    config = ReproduceConfig(table="table2", cost_only=True, sections=["CIFAR-10 32x32"], num_images=5)
    python, script, *words = shlex.split(config.command())
    assert (python, script) == ("python", "scripts/reproduce.py")
    seen = []
    main(seen.append, ReproduceConfig, argument="table", doc="", words=words)
    assert seen == [config]


def test_the_command_names_known_data_wherever_they_lie():
    assert ReproduceConfig(table="table2", data="/elsewhere/mnist.npz").command().endswith("data=mnist")
