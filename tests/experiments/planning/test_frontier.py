"""The frontier: rows that are stored, and what is made of them, on a tiny network."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

import configs
from caching import FORECASTERS, POLICIES, load_plan
from configs import InputError
from experiments.planning.calibration import calibrate
from experiments.planning.contenders import GROUPS, OWN, fewer_steps, setting_name
from experiments.planning.frontier import STORED, Frontier, FrontierConfig, merged
from experiments.plugins import load
from samplers import Sampler, SamplerConfig


@pytest.fixture
def configured(tiny, plans, tmp_path) -> Callable[..., FrontierConfig]:
    """configured(key=value): a small frontier of the tiny model."""

    def of(**more):
        layer = {
            "model": str(tiny / "tiny.yaml"), "checkpoint": str(tiny / "tiny.safetensors"), "device": "cpu",
            "plans": plans, "num_images": 3, "solution_steps": 20, "solution_images": 2,
            "out": str(tmp_path / "out"),
        } | more  # fmt: skip
        return configs.parse(FrontierConfig, layer, where="test")

    return of


def stored(folder: Path) -> list[dict]:
    return [json.loads(path.read_text()) for path in (folder / "rows").glob("*.json")]


def refuse(monkeypatch) -> None:
    monkeypatch.setattr(Frontier, "measure", lambda *_: pytest.fail("measured again"))


def test_the_frontier_is_rendered_from_stored_rows(configured, tmp_path, monkeypatch):
    summary = Frontier(configured()).run()
    rows = stored(tmp_path / "out")
    assert {row["group"] for row in rows} == {*GROUPS, "uncached"} - {OWN}
    assert all(row["macs"] <= 0.5 + 1e-6 for row in rows if row["group"] == "fewer steps")
    text = (tmp_path / "out" / "frontier.md").read_text()
    assert all(f"{row['psnr']:.2f}" in text for row in rows if row["group"] != "uncached")
    assert text.splitlines()[4] in summary, "the table begins with what was printed"
    assert Image.open(tmp_path / "out" / "frontier.png").size[0] > 300
    refuse(monkeypatch)
    assert Frontier(configured()).run() == summary


def test_what_is_in_the_docs_is_all_there(tmp_path, monkeypatch):
    """Every stored row is still found under its name, and they make the page that is stored beside them."""
    monkeypatch.chdir(configs.ROOT)
    refuse(monkeypatch)
    Frontier(FrontierConfig(out=str(tmp_path))).run()
    assert not (tmp_path / "rows").exists()
    assert (tmp_path / "frontier.md").read_text() == Path("docs/frontier/frontier.md").read_text()


@pytest.mark.parametrize(
    "more",
    [{"plans": f"{STORED}/plans/ddim20-*"}, {"also": [{"policy": "none"}]}, {"num_images": 128}, {"engine": "plain"},
     {"plans": str(STORED / "plans"), "num_images": 1}],
)  # fmt: skip
def test_nothing_but_all_the_plans_goes_to_the_docs(more, monkeypatch):
    monkeypatch.setattr(Frontier, "run", lambda _: pytest.fail("written"))
    with pytest.raises(InputError, match="give out=FOLDER"):
        Frontier(configs.parse(FrontierConfig, more, where="test")).run()


def test_the_summary_counts_what_the_calibrated_plan_calls(configured, plans):
    frontier = Frontier(configured(num_images=1))
    summary = frontier.run()
    entries = load_plan(f"{plans}/a.json").entries
    full, null = entries.count(None), entries.count(-1)
    assert f"| {full} / {len(entries) - full - null} / {null} " in summary
    assert "| 8 steps, uniform | 50.0% |" in summary


# --- one's own


OWN_FILE = """
from dataclasses import dataclass
from caching.forecast import register_forecaster
from caching.plan import partial_between
from caching.policies import register

@register("first")
@dataclass(frozen=True)
class First:
    full: int = 4
    branch: int = 1

    def plan(self, num_evals):
        return partial_between(range(self.full), self.branch, num_evals)

@register_forecaster("fading")
@dataclass(frozen=True)
class Fading:
    share: float = 0.5
    history: int = 1

    def weights(self, stored, now, branch):
        return [1 - self.share]

@register("often")
@dataclass(frozen=True)
class Often:
    branch: int = 1

    def due(self, probe):
        return probe.age >= 2
"""


@pytest.fixture
def own(tmp_path):
    """A file with policies and a forecaster of the user's own, imported."""
    file = tmp_path / "own.py"
    file.write_text(OWN_FILE)
    load([str(file)])
    yield file
    for registry in (POLICIES, FORECASTERS):
        for name in ("first", "often", "fading"):
            registry.pop(name, None)


def test_ones_own_is_measured_at_its_own_cost(configured, own, tmp_path):
    also = [{"policy": {"name": "first", "full": [1, 2, 8]}, "forecaster": "fading"}, {"policy": "often"}]
    summary = Frontier(configured(also=also)).run()
    rows = {row["name"]: row for row in stored(tmp_path / "out") if row["group"] == OWN}
    assert len(rows) == 4
    full = next(row for name, row in rows.items() if "full=8" in name)
    assert full["macs"] == pytest.approx(1)
    assert full["psnr"] == pytest.approx(120), "full passes alone forecast nothing"
    for name, row in rows.items():
        (line,) = [line for line in summary.splitlines() if f"| {name} " in line]
        assert [cell.strip() for cell in line.split("|")[3:5]] == [f"{row['macs']:.1%}", f"{row['psnr']:.1f}"]
    text = (tmp_path / "out" / "frontier.md").read_text()
    assert all(f"| {name} " in text for name in rows)
    assert "8 steps, uniform: more than any budget" in text


def test_whoever_edits_a_formula_has_it_measured_again(configured, own, tmp_path):
    also = [{"policy": {"name": "uniform", "interval": 4}, "forecaster": "fading"}]
    Frontier(configured(also=also, num_images=1)).run()
    before = stored(tmp_path / "out")
    own.write_text(OWN_FILE.replace("1 - self.share", "1 - 2 * self.share"))
    load([str(own)])
    Frontier(configured(also=also, num_images=1)).run()
    added = len(stored(tmp_path / "out")) - len(before)
    assert added == 1, "and nothing else"


def test_a_calibrated_plan_can_be_ones_own(configured, plans, tmp_path):
    """Measured once more under another name, with the same result."""
    Frontier(configured(also=[{"policy": f"{plans}/a.json"}], num_images=1)).run()
    by_group = {row["group"]: row for row in stored(tmp_path / "out")}
    assert by_group[OWN]["psnr"] == by_group["calibrated"]["psnr"]
    assert by_group[OWN]["name"] == "plan a"


def test_what_fits_some_settings_is_left_out_of_the_others(configured, calibration, plans, tmp_path, capsys):
    shorter = calibration(tmp_path, trials=0, sampler={"steps": 6})
    calibrate(shorter)
    (tmp_path / "plans" / "b.json").write_text(Path(plans, "a.json").read_text())
    also = [{"policy": {"name": "explicit", "full": [0, 7], "branch": 1}}]
    rows = Frontier(configured(also=also, plans=str(tmp_path / "plans"))).rows
    assert [row.setting.steps for row, _ in rows if row.group == OWN] == [8]
    assert "also[0] is left out of ddim 6 uniform: full pass 7 is not an evaluation" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("entry", "sentence"),
    [
        ("uniform", r"also\[0\] must be a mapping"),
        ({"policy": "unifrm"}, "did you mean 'uniform'"),
        ({"forecaster": "reuse"}, r"also\[0\] lacks policy"),
        ({"polcy": "uniform"}, r"also\[0\] has no key 'polcy'"),
        ({"policy": {"name": "uniform", "branch": 9}}, "fits no setting; ddim 8 uniform: evaluation 1 is planned at"),
    ],
)
def test_what_is_no_idea_is_refused(configured, entry, sentence):
    with pytest.raises(InputError, match=sentence):
        Frontier(configured(also=[entry]))


def test_a_plan_of_seeds_that_are_evaluated_is_refused_as_ones_own(configured, calibration, tmp_path):
    found = calibrate(calibration(tmp_path, first_seed=1, trials=0))
    with pytest.raises(InputError, match=r"a\.json was calibrated on seeds 1 to 2"):
        Frontier(configured(also=[{"policy": str(found.path)}]))


# --- rows


def test_rows_of_the_frontier_are_named_after_what_they_depend_on(configured):
    config = configured(solution_steps=1000, solution_images=32)

    def names(config: FrontierConfig) -> list[Path]:
        frontier = Frontier(config)
        return [frontier.path(*row, range(3)) for row in frontier.rows]

    usual = names(config)
    assert names(replace(config, batch_size=1, device="cpu", solution_images=3)) == usual  # of 3 images all are solved
    for changed in ({"precision": "bf16"}, {"solution_steps": 10}, {"solution_images": 2}):
        assert not set(usual) & set(names(replace(config, **changed))), changed


def test_a_model_whose_file_was_edited_has_other_rows(configured, tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.planning.frontier.read_plans", lambda config: [])
    model, content, made = tmp_path / "tiny.yaml", (tiny / "tiny.yaml").read_text(), []
    for schedule in ("linear", "cosine"):
        model.write_text(content.replace("num_timesteps", f"schedule: {schedule}, num_timesteps"))
        made.append(Frontier(configured(model=str(model))).changed)
    assert "diffusion" not in made[0], "that of the digits goes without saying"
    assert "diffusion" in made[1]
    assert "network" in made[0]


def test_settings_are_told_apart_by_all_that_is_not_as_usual():
    assert setting_name(SamplerConfig("ddim", 100, "uniform")) == "ddim 100 uniform"
    assert setting_name(SamplerConfig("ddim", 50, final="first", offset=1)) == "ddim 50 uniform, offset=1, final=first"


def test_the_solution_ends_where_timesteps_do(calibration, configured, tmp_path, plans):
    """With an offset of 1 there are only 999 steps."""
    calibrate(calibration(tmp_path, trials=0, seeds=1, sampler={"steps": 4, "offset": 1, "final": "first"}))
    config = configured(plans=str(tmp_path / "plans"), solution_steps=1000, solution_images=1, num_images=1)
    frontier = Frontier(config)
    row, checkpoint = next(row for row in frontier.rows if row[0].group == "uncached")
    assert frontier.measure(row, checkpoint, range(1))["psnr_solution"] > 0


def test_means_over_blocks_count_images():
    parts = [
        {"seeds": [0, 4], "solved": 4, "macs": 0.5, "mse": 0.1, "psnr": 30.0, "psnr_solution": 10.0},
        {"seeds": [4, 6], "solved": 1, "macs": 0.5, "mse": 0.4, "psnr": 24.0, "psnr_solution": 20.0},
    ]
    whole = merged(parts)
    assert whole["psnr"] == pytest.approx(28)
    assert whole["psnr_solution"] == pytest.approx(12)
    assert whole["seeds"] == [0, 6]


def test_a_frontier_of_more_images_keeps_what_is_measured(configured, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.planning.frontier.BLOCK", 2)
    config = configured(batch_size=1)  # thresholds are of whole batches
    Frontier(replace(config, num_images=2)).run()
    measured, measure = [], Frontier.measure
    monkeypatch.setattr(Frontier, "measure", lambda *given: measured.append(given[-1]) or measure(*given))
    Frontier(replace(config, num_images=3)).run()
    assert {*measured} == {range(2, 3)}
    monkeypatch.setattr("experiments.planning.frontier.BLOCK", 8)
    Frontier(replace(config, num_images=3, out=str(tmp_path / "whole"))).run()
    pages = [(tmp_path / out / "frontier.md").read_text() for out in ("out", "whole")]
    assert pages[0] == pages[1]


def test_a_frontier_needs_plans_for_its_model_and_of_other_seeds(configured, calibration, tmp_path):
    folder = tmp_path / "plans"
    with pytest.raises(InputError, match="there are no plans for tiny in"):
        Frontier(configured(plans=str(folder)))
    found = calibrate(calibration(tmp_path, first_seed=10, trials=0))
    Frontier(configured(plans=f"{folder}/*.json"))
    with pytest.raises(InputError, match="calibrated on seeds 10 to 11"):
        Frontier(configured(plans=str(folder), num_images=11))
    with pytest.raises(InputError, match=r"no plans for mnist32 in .*; give model=tiny"):
        Frontier(configured(plans=str(folder), model="mnist32"))
    replace(load_plan(found.path), record={}).save(found.path)
    with pytest.raises(InputError, match="does not say how it was found"):
        Frontier(configured(plans=str(folder)))


@pytest.mark.parametrize(
    "setting",
    [
        SamplerConfig("plms", 10),
        SamplerConfig("ddim", 10, "strided", offset=1, final="first", eta=1),
        SamplerConfig("ddpm", 10, "5,5", variance="fixedlarge", clip=False),
        SamplerConfig("dpmpp_2m", 10, "quadratic", clip=True),
    ],
)
@pytest.mark.parametrize("calls", [1, 4])
def test_there_are_solvers_of_fewer_steps_for_every_sampler(configured, setting, calls):
    diffusion = Frontier(configured()).model.diffusion
    made = fewer_steps(setting, calls)
    assert made["DDIM"].name == "ddim"
    assert {Sampler(config, diffusion).num_evals for config in made.values()} == {calls}
    assert ("PLMS" in made) == (calls > 1)
    for config in made.values():
        *_, (_, here, after) = Sampler(config, diffusion).table
        assert here != after, "no call is wasted on a step that leads nowhere"
