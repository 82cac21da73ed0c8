"""scripts/sample.py, on a tiny network with random weights."""

import json
import math
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

import configs
from caching import NULL, POLICIES, Lagrange, Reuse, SavedPlan, full_evals, pass_costs
from configs import InputError
from experiments.cli import main
from experiments.grid import expand, folder_name, label, strategies
from experiments.model import model_config
from experiments.runs import comparison, making
from experiments.runs.blocks import Part
from experiments.runs.run import SampleConfig, prepare, run, sampler_of
from experiments.runs.summarise import Gathered
from experiments.runs.world import World
from samplers import NUM_SEEDS, DiffusionConfig, Sampler, SamplerConfig


def config_of(tiny: str, tmp_path: Path, **settings) -> SampleConfig:
    layer = {
        "model": tiny, "checkpoint": "random", "sampler": {"steps": 5}, "num_images": 3, "batch_size": 2,
        "policy": {"name": "uniform", "interval": 3, "branch": 1},
        "forecaster": {"name": "reuse"}, "out": str(tmp_path / "out"), "device": "cpu",
    }  # fmt: skip
    return configs.parse(SampleConfig, layer | settings, where="test")


def sampler_named(**settings) -> Sampler:
    return Sampler(SamplerConfig(**settings), DiffusionConfig())


def read(folder: Path) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path)) for path in sorted(folder.glob("*.png"))])


def test_a_run_leaves_images_grid_and_summary(tiny, tmp_path):
    summary = run(config_of(tiny, tmp_path))
    out = tmp_path / "out"
    assert read(out / "uncached").shape == (3, 16, 16, 3)
    assert read(out / "uniform-interval3-branch1").shape == (3, 16, 16, 3)
    assert Image.open(out / "grid.png").size[0] > 3 * 16
    stored = json.loads((out / "summary.json").read_text())
    assert stored["rows"][1]["traces"] == [[None, 1, 1, None, 1]]
    assert stored["config"]["num_images"] == 3
    row = summary.rows[1]
    assert row.theoretical_speedup > 1
    assert row.measured_speedup > 0
    assert row.psnr_worst <= row.psnr_mean
    assert 0 < row.ssim_worst <= row.ssim_mean < 1
    text = str(summary)
    assert "RANDOM WEIGHTS" in text
    assert "2 / 3" in text


def test_interval_one_moves_no_bit(tiny, tmp_path):
    summary = run(config_of(tiny, tmp_path, policy={"name": "uniform", "interval": 1, "branch": 1}))
    assert summary.rows[1].identical == 3
    assert "identical" in str(summary)
    assert np.array_equal(read(tmp_path / "out" / "uncached"), read(tmp_path / "out" / "uniform-interval1-branch1"))


def test_images_that_did_not_move_are_counted_beside_the_psnr_of_the_others(tiny, tmp_path):
    row = run(config_of(tiny, tmp_path)).rows[1]
    assert "identical" not in "".join(row.cells())
    assert any(cell.endswith(", 2 identical") for cell in replace(row, identical=2).cells())


def test_an_adaptive_run_counts_the_calls_of_all_images(tiny, tmp_path):
    policy, sampler = {"name": "adaptive", "bound": 0.7, "power": 1.0}, {"steps": 8, "clip": True}
    settings = {"policy": policy, "sampler": sampler, "num_images": 5}
    summary = run(config_of(tiny, tmp_path, batch_size=2, **settings))
    row = summary.rows[1]
    assert len(row.traces) == 5
    assert len(set(row.traces)) > 1  # else this says nothing
    full = [sum(depth is None for depth in trace) for trace in row.traces]
    assert f"{sum(full) / 5:.1f}".removesuffix(".0") + " / " in str(summary)
    assert f"full passes per image: {min(full)} to {max(full)}" in str(summary)
    costs = pass_costs(model_config(tiny).network)
    spent = [sum(costs.of(depth).paper() for depth in trace) / 8 for trace in row.traces]
    assert row.macs == pytest.approx(sum(spent) / 5)
    stored = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert [tuple(trace) for trace in stored["rows"][1]["traces"]] == row.traces
    alone = run(config_of(tiny, tmp_path, **settings, batch_size=1, out=str(tmp_path / "alone")))
    assert alone.rows[1].traces == row.traces


@pytest.mark.parametrize("value", [math.nan, -math.inf])
@pytest.mark.parametrize(("bad", "stored"), [("uncached", []), ("uniform interval=3 branch=1", ["uncached"])])
def test_images_that_are_not_finite_are_refused_and_not_stored(tiny, tmp_path, monkeypatch, bad, stored, value):
    def sample(pipeline, sampler, run, seeds, bar):
        made = sample_images(pipeline, sampler, run, seeds, bar)
        if run.name == bad and 1 in seeds:
            images = made.images.clone()
            images[1, 0, 0, 0] = value
            return made._replace(images=images)
        return made

    sample_images = making.sample_images
    monkeypatch.setattr(making, "sample_images", sample)
    with pytest.raises(InputError, match=f"^{bad}: the images of the seeds 1 are not finite; fp16 overflows"):
        run(config_of(tiny, tmp_path))
    assert {path.parent.name for path in (tmp_path / "out").rglob("*.png")} <= set(stored)
    monkeypatch.undo()
    assert run(config_of(tiny, tmp_path)).rows[1].ssim_mean < 1  # nothing of the block counted as made


def test_a_summary_is_of_the_images_asked_for_alone():
    """A block may store others, too; adaptive policies give each a trace of its own, others all of them the same."""
    full, partial, null = (None, None), (None, 1), (None, NULL)
    of_block = Part(
        seconds=1.0, decoding=1.0, traces=[full, partial, null], uncond_traces=[partial], guidance=(),
        psnr=[10.0, 11.0, 12.0], ssim=[0.0, 0.1, 0.2], files={},
    )  # fmt: skip
    gathered = Gathered()
    gathered.add(of_block, [0, 2])
    assert gathered.traces == [full, null]
    assert gathered.uncond_traces == [partial, partial]
    assert (gathered.psnr, gathered.ssim) == ([10.0, 12.0], [0.0, 0.2])


def test_labels_of_the_grid_stay_beside_the_images():
    font = ImageFont.load_default(13)
    for name in (
        "uncached",
        "uniform interval=5 branch=2 lagrange order=2",
        "adaptive bound=0.8 branch=1 taylor order=2",
    ):
        lines = comparison._wrap(name, font).split("\n")
        assert " ".join(lines) == name
        assert all(font.getlength(line) <= comparison.LABEL_WIDTH - 2 * comparison.MARGIN for line in lines)


def test_without_comparison_only_the_policy_runs(tiny, tmp_path):
    summary = run(config_of(tiny, tmp_path, compare=False))
    assert [row.name for row in summary.rows] == ["uniform interval=3 branch=1"]
    assert summary.rows[0].measured_speedup is None
    assert not (tmp_path / "out" / "uncached").exists()


@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_image_i_is_the_same_at_any_batch_size(tiny, tmp_path, batch_size):
    def images(out, size):
        run(config_of(tiny, tmp_path, num_images=8, batch_size=size, compare=False, out=str(tmp_path / out)))
        return read(tmp_path / out / "uniform-interval3-branch1").astype(int)

    difference = np.abs(images("whole", 8) - images(f"by{batch_size}", batch_size))
    assert difference.max() <= 1  # rounding: at most a grey level
    assert (difference > 0).mean() < 1e-3


def test_seeds_count_from_the_first(tiny, tmp_path):
    run(config_of(tiny, tmp_path, num_images=4, batch_size=4, compare=False))
    run(config_of(tiny, tmp_path, num_images=2, seed=2, compare=False, out=str(tmp_path / "later")))
    names = [path.name for path in sorted((tmp_path / "later" / "uniform-interval3-branch1").glob("*.png"))]
    assert names == ["000002.png", "000003.png"]
    difference = read(tmp_path / "out" / "uniform-interval3-branch1")[2:].astype(int) - read(
        tmp_path / "later" / "uniform-interval3-branch1"
    )
    assert np.abs(difference).max() <= 1


def test_a_folder_of_another_configuration_is_refused_with_the_difference(tiny, tmp_path):
    run(config_of(tiny, tmp_path))
    with pytest.raises(InputError, match=r"sampler\.steps 5 there, 6 here"):
        run(config_of(tiny, tmp_path, sampler={"steps": 6}))
    with pytest.raises(InputError, match=r"policy\.interval 3 there, 2 here"):
        run(config_of(tiny, tmp_path, policy={"name": "uniform", "interval": 2, "branch": 1}))
    run(config_of(tiny, tmp_path, num_images=2, device="auto"))  # no image depends on these


def test_a_plan_beside_different_policies_is_not_the_same_run(tiny, tmp_path):
    config = config_of(tiny, tmp_path, policy={"name": "uniform", "interval": 2, "branch": 0})
    plan = SavedPlan([None, 0, 0, None, 0], {"name": "reuse"}, config.trajectories("", sampler_of(config)))
    plan.save(tmp_path / "a.json")
    (tmp_path / "elsewhere").mkdir()
    plan.save(tmp_path / "elsewhere" / "a.json")

    def made(*names: str, folder: Path = tmp_path) -> dict:
        policy = {"name": [*names, str(folder / "a.json")]}
        return prepare(config_of(tiny, tmp_path, policy=policy), World()).folder.identity

    assert made("uniform") != made("none")
    assert made() == made(folder=tmp_path / "elsewhere")
    assert made("uniform") == made("uniform", folder=tmp_path / "elsewhere")


def test_the_last_seeds_can_be_sampled(tiny, tmp_path):
    run(config_of(tiny, tmp_path, seed=NUM_SEEDS - 2, num_images=2, batch_size=3))
    assert len(read(tmp_path / "out" / "uncached")) == 2


def test_a_folder_with_something_else_in_it_is_refused(tiny, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not the folder of an earlier run"):
        run(config_of(tiny, tmp_path))


@pytest.mark.parametrize(("steps", "full"), [(50, 10), (100, 20), (20, 4)])
def test_a_horizon_of_steps_is_that_of_the_released_code(steps, full):
    sampler = sampler_named(name="plms", steps=steps, spacing="leading", offset=1)
    config = configs.parse(SampleConfig, configs.read(configs.find("sd_v1")), where="sd_v1")
    (strategy,) = strategies(config.policy, config.forecaster, sampler)
    assert strategy.name == f"uniform interval=5 branch=1 horizon={steps}"
    plan = strategy.policy.plan(sampler.num_evals)
    assert (len(plan), full_evals(plan)) == (steps + 1, tuple(range(0, steps, 5)))
    assert len(full_evals(plan)) == full


def test_lists_stand_for_every_combination():
    settings = expand({"name": "uniform", "interval": [3, 5], "branch": [0, 1]}, POLICIES)
    assert [label(chosen) for chosen in settings] == [
        "uniform interval=3 branch=0", "uniform interval=3 branch=1",
        "uniform interval=5 branch=0", "uniform interval=5 branch=1",
    ]  # fmt: skip
    assert folder_name(label(settings[0])) == "uniform-interval3-branch0"


@pytest.mark.parametrize(
    ("policy", "names"),
    [
        ({"name": "adaptive"}, ["adaptive bound=1.6 branch=1 scale=1.0 power=0.3 max_age=10 warm_up=1"]),
        ({"name": "threshold", "branch": 0}, ["threshold branch=0 threshold=0.07"]),
        ({"name": "nested", "branches": [-1, 1], "refresh": [2, 4]}, ["nested branches=-1,1 refresh=2,4"]),
        ({"name": "nested", "branches": [1], "refresh": [[0, 3]]}, ["nested branches=1 refresh=[1 entries, f0a260]"]),
        (
            {"name": "nested", "branches": [[-1, 1], [-1, 2]], "refresh": [2, 4]},
            ["nested branches=-1,1 refresh=2,4", "nested branches=-1,2 refresh=2,4"],
        ),
        (
            {"name": "explicit", "full": list(range(0, 100, 9)), "branch": 1},
            ["explicit full=[12 entries, 7f374a] branch=1"],
        ),
    ],
)
def test_a_name_says_what_the_settings_leave_open(policy, names):
    assert [strategy.name for strategy in strategies(policy, {"name": "reuse"}, sampler_named())] == names


@pytest.mark.parametrize(
    ("sampler", "policy", "forecaster"),
    [
        ({}, {"interval": 9}, Lagrange(2)),  # 12 full passes
        ({}, {"interval": 10}, Lagrange(1)),  # 10
        ({"steps": 20}, {"interval": 2}, Lagrange(1)),
        ({"steps": 20, "name": "plms"}, {"interval": 2}, Lagrange(1)),  # 11, of 21 evaluations
        ({"steps": 20}, {"interval": 4, "branch": 5}, Lagrange(1)),
        ({"steps": 20}, {"interval": 4, "branch": 6}, Reuse()),  # 5 of branch 6
        ({"steps": 20, "name": "plms"}, {"interval": 4, "branch": 6}, Lagrange(1)),  # 6
        ({"steps": 20}, {"name": "adaptive"}, Lagrange(1)),
        ({"steps": 30}, {"name": "adaptive"}, Lagrange(1)),  # a third of 31 evaluations
        ({"steps": 36}, {"name": "adaptive"}, Lagrange(2)),  # of 38
        ({}, {"name": "adaptive"}, Lagrange(2)),
        ({"steps": 12}, {"name": "explicit", "entries": [None, -1, 8, None] * 3}, Lagrange(1)),
        ({"name": "ddpm"}, {}, Reuse()),
        ({"eta": 1.0}, {}, Reuse()),
    ],
)
def test_the_default_forecast_depends_on_the_number_of_full_passes(sampler, policy, forecaster):
    chosen = strategies({"name": "uniform"} | policy, {"name": "auto"}, sampler_named(**sampler))
    assert [strategy.forecaster for strategy in chosen] == [forecaster]


def test_each_of_several_policies_has_the_default_that_suits_it(tiny, tmp_path):
    policy = {"name": "uniform", "interval": [2, 12], "branch": 1}
    chosen = strategies(policy, {"name": "auto"}, sampler_named(steps=24))
    assert [strategy.forecaster for strategy in chosen] == [Lagrange(2), Lagrange(1)]
    run(config_of(tiny, tmp_path, policy=policy, sampler={"steps": 24}, forecaster={"name": "auto"}))
    with pytest.raises(InputError, match=r"forecaster"):
        run(config_of(tiny, tmp_path, policy=policy, sampler={"steps": 24}, forecaster={"name": "lagrange"}))


@pytest.mark.parametrize(
    ("policy", "forecaster", "sentence"),
    [
        ({"name": "uniform"}, {"name": "auto", "order": 3}, "'auto' has no key 'order'"),
        ({"name": "none"}, {"name": "linear"}, "'linear' does not exist; known: auto"),
        (
            {"name": "uniform", "interval": [2, 3, 2]},
            {"name": "reuse"},
            "would share an image folder, uniform-interval2-branch0",
        ),
        ({"name": "uniform", "interval": []}, {"name": "reuse"}, r"interval=\[\] leaves nothing"),
    ],
)
def test_strategies_that_mean_nothing_are_refused(policy, forecaster, sentence):
    with pytest.raises(InputError, match=sentence):
        strategies(policy, forecaster, sampler_named())


def test_every_policy_meets_every_forecaster_that_is_listed():
    policy = {"name": "uniform", "interval": [3, 5]}
    chosen = strategies(policy, {"name": "lagrange", "order": [1, 2]}, sampler_named())
    assert [strategy.name for strategy in chosen] == [
        "uniform interval=3 branch=0 lagrange order=1", "uniform interval=3 branch=0 lagrange order=2",
        "uniform interval=5 branch=0 lagrange order=1", "uniform interval=5 branch=0 lagrange order=2",
    ]  # fmt: skip
    assert len(strategies({"name": "none"}, {"name": "lagrange", "order": [1, 2]}, sampler_named())) == 1
    chosen = strategies({"name": "uniform"}, {"name": ["reuse", "auto"]}, sampler_named())
    assert [strategy.forecaster for strategy in chosen] == [Reuse(), Lagrange(2)]


@pytest.mark.parametrize("config", sorted(configs.FOLDER.glob("*.yaml")))
def test_the_configurations_of_published_models_reuse_as_the_paper_does(config):
    reuses = configs.read(config).get("forecaster") == {"name": "reuse"}
    assert reuses == (config.stem != "mnist32")


def test_a_setting_that_is_itself_a_list_stays_whole():
    assert expand({"name": "explicit", "full": [0, 3], "branch": [0, 1]}, POLICIES) == [
        {"name": "explicit", "full": [0, 3], "branch": 0},
        {"name": "explicit", "full": [0, 3], "branch": 1},
    ]


def test_another_policy_starts_its_settings_afresh():
    layers = {"policy": {"name": "uniform", "interval": [3, 5], "branch": 2}}, {"policy": {"name": "nonuniform"}}
    assert configs.parse(SampleConfig, *layers, where="test").policy == {"name": "nonuniform"}
    kept = configs.parse(SampleConfig, layers[0], {"policy": {"branch": 1}}, where="test").policy
    assert kept == {"name": "uniform", "interval": [3, 5], "branch": 1}


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["num_image=3"], "did you mean 'num_images'"),
        (["sampler.step=3"], "did you mean 'sampler.steps'"),
        (["policy.intervall=3"], "did you mean 'interval'"),
        (["policy.branch=99"], "branches 0 (outermost) to 11"),
        (["sampler.name=dim"], "did you mean 'ddim'"),
        (["checkpoint=nowhere.ckpt"], "nowhere.ckpt"),
        (["num_images=0"], "num_images must be at least 1"),
        (["seed=4294967281"], "the seeds of 16 images must lie in 0..4294967295"),
        (["seed=-1"], "seed=-1 does not leave room"),
        (["num_images=many"], "num_images"),
        (["model=cifar11"], "did you mean 'cifar10'"),
        (["device=tpu"], "device"),
        (["nonsense.yaml"], "nonsense.yaml"),
    ],
)
def test_bad_input_ends_in_one_sentence_and_status_2(words, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    if "checkpoint" not in words[0]:
        words = [*words, "checkpoint=random"]
    with pytest.raises(SystemExit) as stop:
        main(run, SampleConfig, default="mnist32", doc="", words=words)
    captured = capsys.readouterr()
    assert stop.value.code == 2
    assert sentence in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_the_script_runs_from_anywhere(tiny, tmp_path):
    words = [f"model={tiny}", "checkpoint=random", "sampler.steps=2", "num_images=1", "out=there"]
    script = configs.ROOT / "scripts" / "sample.py"
    environment = os.environ | {"PYTHONPATH": str(configs.ROOT)}
    done = subprocess.run(
        [sys.executable, script, *words], capture_output=True, text=True, cwd=tmp_path, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "uniform interval=3 branch=0" in done.stdout
    assert (tmp_path / "there" / "grid.png").is_file()
