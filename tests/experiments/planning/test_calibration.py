"""Calibration, its plan files in use, the frontier and the pictures of features, on a tiny network."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import configs
import models
from caching import (
    NULL,
    Adaptive,
    Budget,
    Explicit,
    Lagrange,
    NoCache,
    Reuse,
    Threshold,
    Uniform,
    load_plan,
    pass_costs,
)
from configs import InputError
from experiments.pipeline import Pipeline, PipelineConfig, load_pipeline
from experiments.planning import end_error
from experiments.planning.calibration import calibrate
from experiments.planning.drift import measure_drift
from experiments.planning.end_error import EndError, mean_psnr, squared_errors
from experiments.planning.features import FeaturesConfig, draw_features
from experiments.planning.fitting import Moments, Teacher, _solve, fit
from experiments.planning.frontier import GROUPS, Frontier, FrontierConfig, merged, rows_of
from experiments.planning.search import CLOSED_FORMS, CalibrateConfig
from experiments.planning.tuning import tuned
from experiments.runs.run import SampleConfig, run
from samplers import DiffusionConfig, Sampler, SamplerConfig

TINY = """
network: {resolution: 8, in_channels: 1, out_channels: 1, channels: 32, channel_mult: [1, 2], num_res_blocks: 1,
          attention_levels: [1]}
diffusion: {num_timesteps: 1000}
"""
SAMPLER = Sampler(SamplerConfig(steps=8), DiffusionConfig())


@pytest.fixture(scope="module")
def tiny(tmp_path_factory) -> Path:
    """A folder with a tiny model and reproducible weights in a file."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    network = models.load("random", folder / "tiny.yaml")
    models.save(network, folder / "tiny.safetensors")
    return folder


@pytest.fixture
def pipeline(tiny) -> Pipeline:
    return load_pipeline(str(tiny / "tiny.safetensors"), str(tiny / "tiny.yaml"), PipelineConfig())


def settings(tiny: Path, **more) -> dict:
    return {
        "model": str(tiny / "tiny.yaml"), "checkpoint": str(tiny / "tiny.safetensors"), "device": "cpu",
        "sampler": {"steps": 8}, "batch_size": 2,
    } | more  # fmt: skip


def calibration(tiny: Path, tmp_path: Path, **more) -> CalibrateConfig:
    layer = settings(tiny, budget=0.5, seeds=2, screening=1, trials=3, plan=str(tmp_path / "plans" / "a.json"),
                     branches=[-1, 0, 1]) | more  # fmt: skip
    return configs.parse(CalibrateConfig, layer, where="test")


def test_a_calibrated_plan_keeps_its_budget_and_says_where_it_comes_from(tiny, tmp_path):
    found = calibrate(calibration(tiny, tmp_path))
    plan = load_plan(tmp_path / "plans" / "a.json")
    assert plan.record["price"] <= 0.5
    assert plan.plan == found.best.plan
    assert plan.checkpoint == models.load(tiny / "tiny.safetensors").provenance.sha256
    assert plan.timesteps == list(SAMPLER.eval_timesteps)
    assert plan.record["seeds"] == {"calibration": [1_000_000, 1_000_002], "fresh": [1_000_002, 1_000_004]}
    regular = [trial.psnr for trial, _ in found.rows[:-1]]
    assert found.best.psnr >= max(regular), "baselines of the same cost are not better"
    assert Image.open(tmp_path / "plans" / "a.png").size[0] > 100
    assert "use it with scripts/sample.py policy=" in str(found)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"batch_size": "auto"}, "a batch_size in images"),
        ({"plan": "plans/a"}, r"ends in \.json"),
        ({"budget": None, "policy": {"name": "adaptive"}}, "name a budget"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(tiny, tmp_path, changed, sentence):
    with pytest.raises(InputError, match=sentence):
        calibrate(calibration(tiny, tmp_path, **changed))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_budget_that_allows_everything(tiny, tmp_path, steps):
    """There is no quad-centre schedule of as many full passes, and one evaluation has no neighbours."""
    found = calibrate(calibration(tiny, tmp_path, budget=1, sampler={"steps": steps}, seeds=1, trials=1))
    assert load_plan(found.path).plan == (None,) * steps


def test_what_is_found_is_never_worse_than_the_uniform_plan(tiny, pipeline, tmp_path):
    config = calibration(tiny, tmp_path, budget=0.6, screening=2, trials=0)
    found = calibrate(config)
    interval, branch = load_plan(found.path).record["uniform"]
    error = EndError(pipeline, SAMPLER, range(config.first_seed, config.first_seed + 2), 2)
    for forecaster in CLOSED_FORMS:
        assert mean_psnr(error(Uniform(interval, branch).plan(8), forecaster)) <= found.best.psnr


def test_a_search_that_was_run_before_measures_nothing_anew(tiny, tmp_path, monkeypatch):
    first = calibrate(calibration(tiny, tmp_path))
    journal = tmp_path / "plans" / "a.trials.jsonl"
    before = journal.read_text()
    journal.write_text(before + '\n{"key": "half a li')  # as a killed run leaves it

    def refuse(self, strategy, seeds):
        raise AssertionError("sampled again")

    monkeypatch.setattr(end_error.EndError, "_sample", refuse)
    again = calibrate(calibration(tiny, tmp_path))
    assert again.best.plan == first.best.plan
    assert again.checked == first.checked


def test_the_plan_drives_a_sampling_run_and_is_replayed_bit_for_bit(tiny, tmp_path):
    found = calibrate(calibration(tiny, tmp_path))
    layer = settings(tiny, policy=str(found.path), num_images=2)
    summaries = [run(configs.parse(SampleConfig, layer | {"out": str(tmp_path / out)}, where="test")) for out in "ab"]
    row = summaries[0].rows[1]
    assert set(row.traces) == {found.best.plan}
    images = [sorted((tmp_path / out / "plan-a").glob("*.png")) for out in "ab"]
    assert len(images[0]) == 2
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*images, strict=True))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"sampler": {"steps": 9}}, r"plan of 8 network evaluations|steps=8, not 9"),
        ({"sampler": {"steps": 8, "eta": 0.5}}, r"sampler\.eta=0\.0, not 0\.5"),
        ({"checkpoint": "random"}, r"weights with sha256 \w{12}, not for \(random\)"),
    ],
)
def test_a_plan_for_something_else_is_refused(tiny, tmp_path, changed, sentence):
    found = calibrate(calibration(tiny, tmp_path, trials=0))
    layer = settings(tiny, policy=str(found.path), out=str(tmp_path / "out")) | changed
    with pytest.raises(InputError, match=sentence):
        run(configs.parse(SampleConfig, layer, where="test"))


def test_without_a_budget_it_is_the_cost_of_the_policy(tiny, tmp_path):
    config = calibration(tiny, tmp_path, policy={"name": "uniform", "interval": 4, "branch": 1}, budget=None, trials=0)
    found = calibrate(config)
    prices = {trial.name: price for trial, price in found.rows}
    assert prices["uniform interval=4 branch=1"] == pytest.approx(load_plan(found.path).record["budget"])


def test_a_budget_that_allows_nothing_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match="allows no plan"):
        calibrate(calibration(tiny, tmp_path, budget=0.05))


# --- errors and fits


def test_the_error_of_no_cache_is_none(pipeline):
    error = EndError(pipeline, SAMPLER, range(3), 2)
    assert error(NoCache().plan(8), Reuse()) == [1e-12] * 3
    assert mean_psnr([1e-2, 1e-4]) == pytest.approx(30)


def test_errors_do_not_depend_on_the_batch(pipeline):
    plan = (None, 0, NULL, None, 1, 1, NULL, 0)
    errors = [EndError(pipeline, SAMPLER, range(5), size)(plan, Lagrange(1)) for size in (1, 2, 5)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    assert errors[0] == pytest.approx(errors[2], rel=1e-3)


def test_adaptive_policies_are_tuned_to_the_budget(pipeline):
    """The limit found is the smallest that keeps it: one a little smaller refreshes too often."""
    error = EndError(pipeline, SAMPLER, range(4), 2)
    budget = Budget(pass_costs(pipeline.unet.config), 0.7)
    found = list(tuned(error, budget, branch=1, interval=3, count=4))
    assert [type(each.policy) for each in found] == [Threshold, Threshold, Adaptive]
    for each in found:
        key = "bound" if isinstance(each.policy, Adaptive) else "threshold"
        smaller = replace(each.policy, **{key: getattr(each.policy, key) * 0.99})
        price = budget.price(tuple(error.adaptive(smaller, each.forecaster, 4).depths.elements()))
        assert each.price <= 0.7 < price
    assert not list(tuned(error, Budget(budget.costs, 0.2), branch=1, interval=1, count=2))[2:], "max_age forbids it"


def test_squared_errors_are_on_the_scale_of_zero_to_one():
    assert squared_errors(torch.ones(2, 1, 2, 2), -torch.ones(2, 1, 2, 2)) == [1.0, 1.0]


def test_the_ridge_solution_minimises_what_it_says():
    rng = np.random.default_rng(0)
    features, truth, prior, ridge = rng.normal(size=(3, 50)), rng.normal(size=50), np.array([2.0, -1.5, 0.5]), 0.1
    gram = features @ features.T
    w = np.array(_solve(Moments(gram, features @ truth, prior), ridge))

    def loss(w):
        return ((truth - w @ features) ** 2).sum() + ridge * np.trace(gram) / 3 * ((w - prior) ** 2).sum()

    assert all(loss(w) < loss(w + step) for step in rng.normal(size=(20, 3)) * 1e-2)
    assert _solve(Moments(gram, features @ truth, prior), 1e9) == pytest.approx(prior)


def test_the_teacher_knows_the_true_feature(pipeline):
    """A fit without ridge to one image foretells what reuse cannot, and leaves the trajectory as it was."""
    plan = (None, None, 1, NULL, None, 1, 1, NULL)
    fitted = fit(pipeline, SAMPLER, plan, Lagrange(1), [5], 1, ridge=1e-9)
    assert set(fitted.table) == {"2:1", "3:-1", "5:1", "6:1", "7:-1"}
    teacher = Teacher(pipeline.unet, Explicit(entries=list(plan)), Lagrange(1))
    teacher.moments = {}
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([500])
    with torch.inference_mode():
        teacher.begin(8)
        for _ in range(3):
            teacher(x, t)
    moments = teacher.moments["2:1"]
    _, tapped = pipeline.unet(x, t, taps=[1])
    # Three times the same input: every stored feature is the true one.
    assert moments.cross == pytest.approx(np.diag(moments.gram))
    assert moments.gram[0, 0] == pytest.approx(float(tapped[1].square().sum()), rel=1e-4)


# --- drift


def test_drift_is_what_the_features_say(pipeline):
    drift = measure_drift(pipeline, SAMPLER, [0, 2], [1, 2])[2]
    assert drift.cosine.shape == (8, 8)
    assert np.allclose(np.diagonal(drift.cosine), 1, atol=1e-5)
    assert np.allclose(np.diagonal(drift.relative), 0, atol=1e-5)
    assert np.allclose(drift.l1, drift.l1.T, atol=1e-5)
    features = []
    for seed in (1, 2):
        noise, one = pipeline.noise([seed]), []

        def keep(x, t, one=one):
            eps, tapped = pipeline.unet(x, t, taps=[2])
            one.append(tapped[2].flatten())
            return eps

        with torch.inference_mode():
            list(SAMPLER.sample(keep, noise(), noise))
        features.append(one)
    wanted = np.mean([float((one[1] - one[5]).norm() / one[1].norm()) for one in features])
    assert drift.relative[1, 5] == pytest.approx(wanted, rel=1e-4)
    wanted = np.mean([float(torch.cosine_similarity(one[1], one[5], dim=0)) for one in features])
    assert drift.cosine[1, 5] == pytest.approx(wanted, rel=1e-4)


def test_pictures_of_features(tiny, tmp_path):
    config = configs.parse(FeaturesConfig, settings(tiny, out=str(tmp_path), num_images=1), where="test")
    draw_features(config)
    for name in ("similarity.png", "drift.png"):
        assert np.asarray(Image.open(tmp_path / name)).std() > 5
    with pytest.raises(InputError, match="branch 9 does not exist"):
        draw_features(configs.parse(FeaturesConfig, settings(tiny, branches=[9]), where="test"))


# --- frontier


@pytest.fixture(scope="module")
def plans(tiny, tmp_path_factory) -> str:
    """A folder with a calibrated plan."""
    folder = tmp_path_factory.mktemp("calibrated")
    calibrate(calibration(tiny, folder))
    return str(folder / "plans")


def test_the_frontier_is_rendered_from_stored_rows(tiny, plans, tmp_path, monkeypatch):
    layer = {
        "model": str(tiny / "tiny.yaml"), "checkpoint": str(tiny / "tiny.safetensors"), "device": "cpu",
        "plans": plans, "num_images": 3, "solution_steps": 20, "solution_images": 2,
        "out": str(tmp_path / "out"),
    }  # fmt: skip
    frontier = Frontier(configs.parse(FrontierConfig, layer, where="test"))
    text = frontier.run()
    rows = [json.loads(path.read_text()) for path in (tmp_path / "out" / "rows").glob("*.json")]
    assert {row["group"] for row in rows} == {*GROUPS, "uncached"}
    assert all(row["macs"] <= 0.5 + 1e-6 for row in rows if row["group"] == "fewer steps")
    assert all(f"{row['psnr']:.2f}" in text for row in rows if row["group"] != "uncached")
    assert (tmp_path / "out" / "frontier.md").read_text().strip() == text.strip()
    assert Image.open(tmp_path / "out" / "frontier.png").size[0] > 300
    monkeypatch.setattr(Frontier, "measure", lambda *_: pytest.fail("measured again"))
    assert Frontier(frontier.config).run() == text


def test_rows_of_the_frontier_are_named_after_what_they_depend_on(tiny, plans, tmp_path):
    layer = {"model": str(tiny / "tiny.yaml"), "plans": plans, "num_images": 3, "out": str(tmp_path)}
    config = configs.parse(FrontierConfig, layer, where="test")

    def names(config: FrontierConfig) -> list[Path]:
        frontier = Frontier(config)
        (plan,) = frontier.plans
        return [frontier.path(row, plan.checkpoint, range(3)) for row in rows_of(plan, frontier.model.diffusion)]

    usual = names(config)
    assert names(replace(config, batch_size=1, device="cpu", solution_images=3)) == usual  # of 3 images all are solved
    for changed in ({"precision": "bf16"}, {"solution_steps": 10}, {"solution_images": 2}):
        assert not set(usual) & set(names(replace(config, **changed))), changed


def test_means_over_blocks_count_images():
    parts = [
        {"seeds": [0, 4], "solved": 4, "macs": 0.5, "mse": 0.1, "psnr": 30.0, "psnr_solution": 10.0},
        {"seeds": [4, 6], "solved": 1, "macs": 0.5, "mse": 0.4, "psnr": 24.0, "psnr_solution": 20.0},
    ]
    whole = merged(parts)
    assert whole["psnr"] == pytest.approx(28)
    assert whole["psnr_solution"] == pytest.approx(12)
    assert whole["seeds"] == [0, 6]


def test_a_frontier_of_more_images_keeps_what_is_measured(tiny, plans, tmp_path, monkeypatch):
    monkeypatch.setattr("experiments.planning.frontier.BLOCK", 2)
    layer = {
        "model": str(tiny / "tiny.yaml"), "checkpoint": str(tiny / "tiny.safetensors"), "device": "cpu",
        "plans": plans, "solution_steps": 20, "solution_images": 2, "out": str(tmp_path / "out"),
        "batch_size": 1,  # thresholds are of whole batches
    }  # fmt: skip
    config = configs.parse(FrontierConfig, layer, where="test")
    Frontier(replace(config, num_images=2)).run()
    measured, measure = [], Frontier.measure
    monkeypatch.setattr(Frontier, "measure", lambda *given: measured.append(given[-1]) or measure(*given))
    text = Frontier(replace(config, num_images=3)).run()
    assert {*measured} == {range(2, 3)}
    monkeypatch.setattr("experiments.planning.frontier.BLOCK", 8)
    whole = replace(config, num_images=3, out=str(tmp_path / "whole"))
    assert Frontier(whole).run() == text


def test_a_frontier_needs_plans_of_other_seeds(tiny, tmp_path):
    config = configs.parse(FrontierConfig, {"plans": str(tmp_path)}, where="test")
    with pytest.raises(InputError, match="there are no plans"):
        Frontier(config)
    calibrate(calibration(tiny, tmp_path, first_seed=10, trials=0))
    with pytest.raises(InputError, match="calibrated on seeds 10 to 11"):
        Frontier(configs.parse(FrontierConfig, {"plans": str(tmp_path / "plans")}, where="test"))
