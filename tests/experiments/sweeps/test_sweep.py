"""scripts/sweep.py: grids, rows that are left out, fail or are finished, and the report made from results alone."""

import csv
import json
import os
import subprocess
import sys

import pytest
import torch

import configs
from configs import InputError
from experiments.rows import rows as rows_module
from experiments.rows.measures import MEASURES
from experiments.rows.results import Result
from experiments.runs import world
from experiments.sweeps import sweep
from experiments.sweeps.contrasts import contrasts
from experiments.sweeps.sweep import SweepConfig, axes, combinations, name_of, run, words
from experiments.sweeps.sweep_folder import SweepFolder
from experiments.sweeps.sweep_plan import load_sweep_plan
from experiments.sweeps.sweep_report import SweepReport, render

GRID = {"policy.interval": [2, 3], "policy.branch": [0, 2]}


def config_of(out, **settings) -> SweepConfig:
    """A sweep of the bundled digits, as small as can be."""
    layer = {"model": "mnist32", "sampler": {"steps": 4}, "num_images": 2, "batch_size": 2, "device": "cpu",
             "forecaster": {"name": "reuse"}, "grid": GRID, "out": str(out)}  # fmt: skip
    return configs.parse(SweepConfig, layer | settings, where="test")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The folder of a finished sweep."""
    folder = tmp_path_factory.mktemp("sweep")
    run(config_of(folder))
    return folder


def names(config: SweepConfig) -> list[str]:
    return [each.row.name for each in combinations(config) if each.row]


def test_a_grid_is_every_combination_the_last_axis_fastest(tmp_path):
    made = list(combinations(config_of(tmp_path)))
    assert [each.row.name for each in made] == [
        "interval=2 branch=0", "interval=2 branch=2", "interval=3 branch=0", "interval=3 branch=2",
    ]  # fmt: skip
    assert made[3].row.config.policy == {"name": "uniform", "interval": 3, "branch": 2}
    assert made[3].at == {"policy.interval": "3", "policy.branch": "2"}


def test_dotted_keys_mappings_and_single_values_mean_the_same():
    dotted = {"sampler.steps": [10], "policy.interval": [2, 3]}
    assert axes({"sampler": {"steps": 10}, "policy": {"interval": [2, 3]}}) == axes(dotted) == dotted
    assert axes({"policy.interval": [2], "policy": {"interval": [5]}}) == {"policy.interval": [5]}  # the command line


def test_any_key_can_be_varied_and_whole_policies_too(tmp_path):
    grid = {"sampler.name": ["ddim", "plms"], "policy": [{"name": "threshold", "threshold": 0.1}, "none"],
            "forecaster": ["reuse", {"name": "taylor", "order": 1}]}  # fmt: skip
    made = list(combinations(config_of(tmp_path, grid=grid)))
    assert len(made) == 8
    assert made[1].row.name == "name=ddim threshold threshold=0.1 taylor order=1"
    assert made[1].row.config.policy == {"name": "threshold", "threshold": 0.1}
    assert made[4].row.config.sampler.name == "plms"
    assert made[1].row.config.forecaster == {"name": "taylor", "order": 1}


def test_names_tell_axes_of_the_same_last_word_apart():
    assert name_of({"sampler.name": "ddim", "policy.name": "none"}) == "sampler.name=ddim policy.name=none"
    assert words({"name": "nested", "branches": [0, 2], "refresh": [2, 4]}) == "nested branches=[0, 2] refresh=[2, 4]"


def test_combinations_that_mean_nothing_are_left_out_with_the_reason(tmp_path):
    made = list(combinations(config_of(tmp_path, grid={"policy.name": ["uniform", "none"], "policy.branch": [1, 99]})))
    assert [each.row.name for each in made if each.row] == ["name=uniform branch=1"]
    assert "branches 0 (outermost) to 11" in made[1].reason
    assert "'none' has no key 'branch'" in made[2].reason


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"grid": {}}, "the grid is empty"),
        ({"grid": {"policy.interval": []}}, "no values for policy.interval"),
        ({"grid": {"policy.intervall": [2]}}, "did you mean 'interval'"),
        ({"grid": {"sampler.step": [2]}}, "did you mean 'sampler.steps'"),
        ({"grid": {"policy.interval": [0]}}, "interval must be at least 1"),
        ({"metrics": ["psnr"]}, "did you mean 'psnr_mean'"),
        ({"metrics": []}, "metrics must name at least one"),
        ({"compare": False}, "compare"),
        ({"checkpoint": "nowhere.ckpt"}, "nowhere.ckpt"),
        ({"only_render": True}, "there is no sweep in .*out: it does not exist; the sweep without only_render"),
        ({"data": "nowhere"}, "data must be mnist, cifar10, or an image folder.* that exists, not 'nowhere'"),
        ({"data": "lsun:nowhere"}, "not 'lsun:nowhere'"),
        ({"inception": "nowhere.pth"}, "there is no file nowhere.pth"),
        ({"device": "cuda:99"}, "device 'cuda:99' cannot be used here"),
    ],
)
def test_a_sweep_that_cannot_run_ends_in_a_sentence(settings, sentence, tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "run", lambda *_, **__: pytest.fail("sampled before it was refused"))
    with pytest.raises(InputError, match=sentence):
        run(config_of(tmp_path / "out", **settings))
    assert not (tmp_path / "out").exists()


def test_a_sweep_leaves_results_table_and_page(swept):
    assert len(list((swept / "results").glob("*.json"))) == 5  # four rows, and what they are compared with
    with (swept / "table.csv").open() as file:
        uncached, *rows = csv.DictReader(file)
    assert uncached["policy.interval"] == "uncached"
    assert [(row["policy.interval"], row["policy.branch"]) for row in rows] == [
        ("2", "0"),
        ("2", "2"),
        ("3", "0"),
        ("3", "2"),
    ]
    for row in rows:
        assert float(row["psnr_mean"]) > 10
        assert float(row["macs_per_image"]) == pytest.approx(4 * float(row["macs"]))
        assert float(row["macs"]) * float(row["theoretical_speedup"]) == pytest.approx(float(uncached["macs"]), rel=0.1)
        assert float(row["measured_speedup"]) > 0
    page = (swept / "report.html").read_text()
    assert page.count('<img class="picture"') == 3  # two heat maps, quality against cost
    assert page.count(", image 2") == 5  # of every row
    assert "interval=3 branch=2" in page
    assert "| policy.interval |" in (swept / "table.md").read_text()


def test_finished_rows_are_not_run_again(swept, monkeypatch):
    monkeypatch.setattr(rows_module, "run", lambda *_, **__: pytest.fail("a finished row is run again"))
    before = (swept / "report.html").read_bytes()
    assert run(config_of(swept)).counts["finished"] == 4
    assert (swept / "report.html").read_bytes() == before


def test_the_report_is_made_from_the_folder_alone(swept, tmp_path, monkeypatch):
    moved = tmp_path / "moved"
    subprocess.run(["cp", "-r", swept, moved], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(rows_module, "run", lambda *_, **__: pytest.fail("rendering runs nothing"))
    for name in ("report.html", "table.md", "table.csv"):
        (moved / name).unlink()
    assert run(config_of(moved, only_render=True, grid={})).counts["finished"] == 4
    assert (moved / "report.html").exists()


def test_a_report_of_an_unfinished_sweep_says_what_waits(swept, tmp_path):
    partly = tmp_path / "partly"
    subprocess.run(["cp", "-r", swept, partly], check=True)
    point = load_sweep_plan(partly).points[1]
    (partly / "results" / f"{point.key}.json").unlink()
    outcome = render(partly)
    assert outcome.counts == {"finished": 3, "failed": 0, "not run yet": 1, "left out": 0}
    assert "3 finished, 1 not run yet" in (partly / "report.html").read_text()


def test_a_failed_row_is_recorded_and_the_others_go_on(tmp_path, monkeypatch):
    real = rows_module.run

    def fails_at_branch_2(config, *rest, **others):
        if config.policy.get("branch") == 2:
            raise RuntimeError("out of memory\nsomewhere")
        return real(config, *rest, **others)

    monkeypatch.setattr(rows_module, "run", fails_at_branch_2)
    outcome = run(config_of(tmp_path))
    assert outcome.counts == {"finished": 2, "failed": 2, "not run yet": 0, "left out": 0}
    assert outcome.failures["interval=2 branch=2"] == "RuntimeError: out of memory somewhere"
    assert "failed: RuntimeError: out of memory somewhere" in (tmp_path / "report.html").read_text()
    monkeypatch.setattr(rows_module, "run", real)
    assert run(config_of(tmp_path)).counts["failed"] == 0  # the next call tries them again


def test_a_damaged_result_is_named(swept, tmp_path):
    damaged = tmp_path / "damaged"
    subprocess.run(["cp", "-r", swept, damaged], check=True)
    point = load_sweep_plan(damaged).points[0]
    (damaged / "results" / f"{point.key}.json").write_text('{"na')
    with pytest.raises(InputError, match=rf"{point.key}\.json is damaged"):
        render(damaged)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"sweep\.json is damaged \(.*\); the sweep without only_render writes it again"),
        ("[]", r"sweep\.json is damaged"),
        ('{"title": "x"}', r"sweep\.json is damaged \(.* missing 3 required .* 'axes', 'metrics', and 'points'\)"),
        ('{"title": "x", "axes": {}, "metrics": [], "points": [{"nam": 1}]}', r"sweep\.json is damaged \(.*'nam'\)"),
        (None, r"there is no sweep in .*: it lacks sweep\.json; the sweep without only_render writes it"),
    ],
)
def test_a_folder_without_its_plan_is_not_rendered(content, sentence, tmp_path):
    if content is not None:
        (tmp_path / "sweep.json").write_text(content)
    with pytest.raises(InputError, match=sentence):
        run(config_of(tmp_path, only_render=True))


def test_rows_under_several_samplers_are_compared_each_with_its_own(tmp_path):
    run(config_of(tmp_path, grid={"sampler.steps": [4, 5], "policy.interval": [2, 3]}))
    sweep = SweepFolder(tmp_path)
    assert [list(row.point.at.values()) for row in sweep.uncached] == [["4", "uncached"], ["5", "uncached"]]
    assert [sum(row.result.calls.values()) for row in sweep.uncached] == [4, 5]


def test_a_grid_over_the_sampler_alone_has_a_report(tmp_path):
    config = config_of(tmp_path, grid={"sampler.steps": [4, 5]}, policy={"name": "uniform", "interval": 2})
    assert run(config).counts["finished"] == 2
    assert [row[0] for row in SweepReport(SweepFolder(tmp_path)).rows] == ["4 uncached", "5 uncached", "4", "5"]
    assert "brighter" not in (tmp_path / "report.html").read_text()  # no heat map over one axis


def test_identical_images_are_marked(swept):
    sweep = SweepFolder(swept)
    row = sweep.finished[0]
    figures = {name: value for name, value in row.figures.items() if not name.startswith("psnr")} | {"identical": 2}
    sweep.finished[0] = row._replace(figures=figures)
    report = SweepReport(sweep)
    (panel,) = report._panels("policy.branch", "policy.interval", "psnr_mean")
    assert panel.cells["2", "0"] == (None, "=")
    assert panel.cells["3", "2"][0] > 10
    assert any("every image equals its uncached one" in getattr(block, "caption", "") for block in report.blocks())


@pytest.mark.parametrize("sweep", sorted((configs.FOLDER / "sweeps").glob("*.yaml")), ids=lambda path: path.stem)
def test_the_sweeps_that_come_with_the_project_mean_something_in_every_corner(sweep):
    config = configs.parse(SweepConfig, configs.read(sweep), where=str(sweep))
    made = list(combinations(config))
    plans = [each for each in made if each.at.get("policy", "").endswith(".json")]  # of one length and one forecast
    # Elsewhere all that is left out is the default forecast where it is reuse.
    assert all(each.at["forecaster"] == "auto" for each in made if not each.row and each not in plans)
    assert all(each.reason.startswith("the same as") for each in made if not each.row and each not in plans)
    assert sum(each.row is not None for each in plans) == len(plans) / 4
    assert len(made) in (16, 48, 864)


def test_settings_win_over_whole_policies_wherever_these_stand(tmp_path):
    grid = {"policy.interval": [2, 3], "policy": ["uniform", {"name": "nonuniform", "center": 1}]}
    made = [each.row.config.policy for each in combinations(config_of(tmp_path, grid=grid)) if each.row]
    assert [(policy["name"], policy["interval"]) for policy in made] == [
        ("uniform", 2), ("nonuniform", 2), ("uniform", 3), ("nonuniform", 3),
    ]  # fmt: skip


def test_settings_are_contrasted_where_all_else_is_equal():
    axes = {"interval": ["3", "5"], "forecaster": ["reuse", "auto", "line"]}
    found = {
        frozenset({("interval", interval), ("forecaster", forecaster)}): value
        for interval, forecaster, value in [
            ("3", "reuse", 30.0), ("3", "auto", 41.5), ("3", "line", 40.0),
            ("5", "reuse", 25.0), ("5", "auto", 24.0),
        ]
    }  # fmt: skip
    made = contrasts(axes, found)
    assert [(each.axis, each.value, each.first) for each in made] == [
        ("interval", "5", "3"), ("forecaster", "auto", "reuse"), ("forecaster", "line", "reuse"),
    ]  # fmt: skip
    assert [each.differences for each in made] == [[-17.5, -5.0], [-1.0, 11.5], [10.0]]
    cells = ["forecaster", "auto", "reuse", "2", "1", "+5.2", "-1.0", "+11.5"]
    assert made[1].cells(MEASURES["psnr_mean"]) == cells
    lower_is_better = made[0].cells(MEASURES["frechet"])
    assert lower_is_better[3:] == ["2", "2", "-11.25", "-17.5", "-5"]


def test_the_report_says_what_each_setting_changes(swept):
    outcome = render(swept)
    assert any(line.startswith("| policy.interval") for line in outcome.contrasts)
    assert "One setting at a time" in outcome.page.read_text()
    assert "differ in one setting alone" in str(outcome)


def test_values_given_twice_run_once(tmp_path):
    made = list(combinations(config_of(tmp_path, grid={"policy.interval": [2, 2]})))
    assert [each.reason for each in made] == ["", "the same as interval=2"]


def test_images_are_judged_on_the_device_that_makes_them(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "pick_device", lambda name: torch.device("meta" if name == "auto" else name))
    asked = []
    monkeypatch.setattr(sweep, "execute", lambda rows, out, judges: asked.append(judges.device))
    run(config_of(tmp_path, device="auto"))
    assert asked == [torch.device("meta")]


def test_a_sweep_says_first_how_much_there_is_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sweep, "execute", lambda *_, **__: None)
    run(config_of(tmp_path, grid={"policy.interval": [2, 3], "policy.branch": [1, 99]}))
    said = f"rows of the sweep: 2, combinations left out: 2 ({tmp_path / 'sweep.json'} says why)\n"
    assert capsys.readouterr().err == said


def test_what_differs_in_nothing_runs_once(tmp_path):
    plan = str(configs.ROOT / "docs" / "frontier" / "plans" / "ddim20-uniform-N3.json")
    grid = {"policy": ["none", plan], "forecaster": ["auto", "reuse"]}
    made = list(combinations(config_of(tmp_path, grid=grid, sampler={"steps": 20})))
    assert [bool(each.row) for each in made] == [True, False, True, False]
    assert made[1].reason == "the same as none auto"
    assert made[3].reason == f"the same as {plan} auto"


def script(launcher: list[str], arguments: list[str]) -> subprocess.CompletedProcess:
    command = [*launcher, str(configs.ROOT / "scripts" / "sweep.py"), *arguments]
    environment = os.environ | {"PYTHONPATH": str(configs.ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=300)


@pytest.mark.slow
def test_two_processes_share_every_row_and_make_the_same_files(swept, tmp_path):
    sweep = tmp_path / "small.yaml"
    settings = load_sweep_plan(swept).config | {"out": str(tmp_path / "shared"), "batch_size": 1}
    sweep.write_text(json.dumps(settings))  # which is YAML
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = script(torchrun, [str(sweep)])
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("4 finished") == 1  # the first process alone speaks
    run(config_of(tmp_path / "alone", batch_size=1))
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    names = sorted(path.relative_to(alone) for path in alone.glob("samples/*/*/*.png"))
    assert len(names) == 5 * 2
    assert all((alone / name).read_bytes() == (shared / name).read_bytes() for name in names)
    with (alone / "table.csv").open() as ours, (shared / "table.csv").open() as theirs:
        pairs = list(zip(csv.DictReader(ours), csv.DictReader(theirs), strict=True))
    assert all(a["key"] == b["key"] and a["psnr_mean"] == b["psnr_mean"] for a, b in pairs)


def test_the_script_reports_failed_rows_in_one_line_and_status_1(tmp_path):
    # A policy that is decided while sampling is not known to fail before.
    grid = "grid.policy=[{name: uniform, interval: 2}, {name: threshold, branch: 99}]"
    words = ["sampler.steps=4", "num_images=1", "batch_size=1", grid, f"out={tmp_path}", "metrics=[psnr_mean]"]
    sweep = tmp_path / "small.yaml"
    sweep.write_text("model: mnist32\nforecaster: reuse\n")
    done = script([sys.executable], [str(sweep), *words])
    assert done.returncode == 1, done.stderr
    assert "1 finished, 1 failed" in done.stdout
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("1 row failed; the first, threshold branch=99:")
    stored = [json.loads(path.read_text()) for path in (tmp_path / "results").glob("*.json")]
    assert [configs.parse(Result, result, where="").error is None for result in stored].count(False) == 1
