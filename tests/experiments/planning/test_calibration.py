"""Calibration, and its plan files in use, on a tiny network."""

import json
import re
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from small_networks import GUIDED

import configs
import models
from caching import (
    FORECASTERS,
    NULL,
    Adaptive,
    Budget,
    Explicit,
    Fitted,
    Lagrange,
    NoCache,
    Reuse,
    Threshold,
    Uniform,
    load_plan,
    make_forecaster,
    pass_costs,
    register_forecaster,
)
from configs import InputError
from experiments.planning import end_error
from experiments.planning.calibration import calibrate, default_name
from experiments.planning.end_error import EndError, mean_psnr, squared_errors
from experiments.planning.fitting import NormalEquations, Teacher, _solve, fit
from experiments.planning.naming import words
from experiments.planning.search import CLOSED_FORMS, STAYS, Search, Trial
from experiments.planning.tuning import tune, tuned
from experiments.runs.run import SampleConfig, run
from samplers import DiffusionConfig, Sampler, SamplerConfig


def test_a_calibrated_plan_keeps_its_budget_and_says_where_it_comes_from(tiny, tmp_path, calibration, sampler):
    found = calibrate(calibration(tmp_path))
    plan = load_plan(tmp_path / "plans" / "a.json")
    assert plan.record["price"] <= 0.5
    assert plan.plan == found.best.plan
    assert plan.made_for.checkpoint == models.load(tiny / "tiny.safetensors").provenance.sha256
    assert plan.made_for.timesteps == list(sampler.eval_timesteps)
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
        ({"budget": None, "policy": {"name": "uniform", "branch": 99}}, "planned at branch 99"),
        ({"budget": None, "policy": {"name": "uniform", "branch": -5}}, "planned at branch -5"),
        ({"branches": [-2, 1]}, "branch -2 does not exist"),
        ({"branches": [99]}, "branch 99 does not exist"),
        ({"branches": []}, "at least one candidate"),
        ({"trials": -1}, "trials must be at least 0"),
        ({"compile": True}, "adaptive policies, which are among what is compared, cannot be compiled"),
    ],
)
def test_what_cannot_be_calibrated_is_refused(tmp_path, changed, sentence, calibration):
    with pytest.raises(InputError, match=sentence):
        calibrate(calibration(tmp_path, **changed))


@pytest.mark.parametrize("steps", [1, 4])
def test_a_budget_that_allows_everything(tmp_path, steps, calibration):
    """There is no quad-centre schedule of as many full passes, and one evaluation has no neighbours."""
    found = calibrate(calibration(tmp_path, budget=1, sampler={"steps": steps}, seeds=1, trials=1))
    assert load_plan(found.path).plan == (None,) * steps


def test_what_is_found_is_never_worse_than_the_uniform_plan(pipeline, tmp_path, calibration, sampler):
    config = calibration(tmp_path, budget=0.6, screening=2, trials=0)
    found = calibrate(config)
    interval, branch = load_plan(found.path).record["uniform"]
    error = EndError(pipeline, sampler, range(config.first_seed, config.first_seed + 2), 2)
    for forecaster in CLOSED_FORMS:
        assert mean_psnr(error(Uniform(interval, branch).plan(8), forecaster)) <= found.best.psnr


def test_a_search_that_was_run_before_measures_nothing_anew(tmp_path, monkeypatch, calibration):
    first = calibrate(calibration(tmp_path))
    journal = tmp_path / "plans" / "a.trials.jsonl"
    before = journal.read_text()
    journal.write_text(before + '\n{"key": "half a li')  # as a killed run leaves it

    def refuse(self, strategy, seeds):
        raise AssertionError("sampled again")

    monkeypatch.setattr(end_error.EndError, "_sample", refuse)
    again = calibrate(calibration(tmp_path))
    assert again.best.plan == first.best.plan
    assert again.checked == first.checked


def test_a_longer_search_finds_what_a_shorter_one_measured(tmp_path, calibration):
    calibrate(calibration(tmp_path, trials=0))
    journal = tmp_path / "plans" / "a.trials.jsonl"
    keys = [json.loads(line)["key"] for line in journal.read_text().split("\n") if line]
    calibrate(calibration(tmp_path, trials=1, forecasters=["zero"], num_images=3))
    after = [json.loads(line)["key"] for line in journal.read_text().split("\n") if line]
    assert after[: len(keys)] == keys
    assert len(after) == len(set(after)) > len(keys)


def test_a_plan_that_is_there_stays_unless_a_nearer_one_is_found(tmp_path, calibration, monkeypatch):
    good = calibrate(calibration(tmp_path))
    entries = load_plan(good.path).entries
    worst = Trial("poor", (None,) + (0,) * 7, Reuse(), 0.0)
    monkeypatch.setattr(Search, "sought", lambda _: worst)
    monkeypatch.setattr(Search, "baselines", lambda _: [])
    again = calibrate(calibration(tmp_path))
    assert again.best[1:] == good.best[1:]
    assert f"| {STAYS} " in str(again)
    assert load_plan(good.path).entries == entries
    cheap = calibrate(calibration(tmp_path, budget=load_plan(good.path).record["price"] - 0.01))
    assert cheap.best == worst, "what is there costs more than it may"


@pytest.mark.parametrize(
    ("content", "sentence"),
    [("notes", "is damaged or not a plan file"), (None, "does not fit: it was made for sampler")],
)
def test_a_file_that_holds_something_else_is_not_written_over(plans, tmp_path, calibration, content, sentence):
    file = tmp_path / "plans" / "a.json"
    file.parent.mkdir()
    file.write_text(content or Path(plans, "a.json").read_text())
    before = file.read_text()
    with pytest.raises(InputError, match=sentence):
        calibrate(calibration(tmp_path, sampler={"steps": 4}))
    assert file.read_text() == before


def test_measurements_on_another_noise_schedule_are_others(pipeline, tmp_path):
    journal = tmp_path / "trials.jsonl"
    plan = (None, 1, None, 1, None, 1, None, 1)
    errors = [
        EndError(pipeline, Sampler(SamplerConfig(steps=8), DiffusionConfig(schedule)), [0], 1, journal)(plan, Reuse())
        for schedule in ("linear", "cosine")
    ]
    assert errors[0] != errors[1]


def test_weights_are_not_fitted_to_features_that_are_split_further(tmp_path, calibration, monkeypatch):
    monkeypatch.setattr("experiments.planning.search.fit", None)
    calibrate(calibration(tmp_path, split=True))


def test_the_plan_drives_a_sampling_run_and_is_replayed_bit_for_bit(plans, tmp_path, settings):
    layer = settings(policy=f"{plans}/a.json", num_images=2)
    summaries = [run(configs.parse(SampleConfig, layer | {"out": str(tmp_path / out)}, where="test")) for out in "ab"]
    row = summaries[0].rows[1]
    assert set(row.traces) == {load_plan(f"{plans}/a.json").plan}
    images = [sorted((tmp_path / out / "plan-a").glob("*.png")) for out in "ab"]
    assert len(images[0]) == 2
    assert all(a.read_bytes() == b.read_bytes() for a, b in zip(*images, strict=True))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"sampler": {"steps": 9}}, r"plan of 8 network evaluations|steps=8, not 9"),
        ({"sampler": {"steps": 8, "eta": 0.5}}, r"sampler\.eta=0\.0, not 0\.5"),
        ({"split": True}, "split=None, not True"),
        ({"checkpoint": "random"}, r"weights with sha256 \w{12}, not for \(random\)"),
    ],
)
def test_a_plan_for_something_else_is_refused(plans, tmp_path, changed, sentence, settings):
    layer = settings(policy=f"{plans}/a.json", out=str(tmp_path / "out")) | changed
    with pytest.raises(InputError, match=sentence):
        run(configs.parse(SampleConfig, layer, where="test"))


@pytest.mark.parametrize(
    ("changed", "name"),
    [
        ({}, r"ddim8-uniform-0\.500"),
        ({"seeds": 4, "precision": "bf16"}, r"ddim8-uniform-0\.500"),
        ({"sampler": {"steps": 8, "eta": 0.5}}, r"ddim8-uniform-0\.500-\w{8}"),
        ({"guidance": {"scale": 2.0}}, r"ddim8-uniform-0\.500-\w{8}"),
        ({"height": 64}, r"ddim8-uniform-0\.500-\w{8}"),
    ],
)
def test_plans_for_different_things_have_different_names(tmp_path, changed, name, calibration):
    assert re.fullmatch(f"tiny-{name}", default_name(calibration(tmp_path, **changed), 0.5))


def test_without_a_budget_it_is_the_cost_of_the_policy(tmp_path, calibration):
    config = calibration(tmp_path, policy={"name": "uniform", "interval": 4, "branch": 1}, budget=None, trials=0)
    found = calibrate(config)
    prices = {trial.name: price for trial, price in found.rows}
    assert prices["uniform interval=4 branch=1"] == pytest.approx(load_plan(found.path).record["budget"])


def test_the_policy_whose_cost_is_the_budget_is_compared(tmp_path, calibration):
    entries = [None, 1, 0, 1, None, 0, 1, 0]
    config = calibration(tmp_path, policy={"name": "explicit", "entries": entries}, budget=None, trials=0)
    found = calibrate(config)
    compared = [trial.forecaster for trial, _ in found.rows if trial.name.startswith("explicit")]
    assert compared == [Reuse(), Lagrange()]
    assert max(trial.psnr for trial, price in found.rows) == found.best.psnr


@pytest.mark.parametrize(("budget", "uniform"), [(0.5, (8, 1)), (0.3, (8, 0)), (0.2, None)])
def test_nothing_that_is_compared_costs_more_than_the_budget(tmp_path, calibration, budget, uniform):
    """Where even one full pass and the rest around branch 1 is too dear, the uniform plan goes further out."""
    found = calibrate(calibration(tmp_path, budget=budget, trials=0))
    assert max(price for _, price in found.rows) <= budget
    assert load_plan(found.path).record["uniform"] == (uniform and list(uniform))
    assert bool(found.adaptive) == bool(uniform)


def test_what_is_measured_on_the_way_may_be_the_best(tmp_path, own, calibration, monkeypatch):
    poor = Trial("poor", (None, *[1] * 7), Reuse(), 0.0)
    monkeypatch.setattr(Search, "sought", lambda _: poor)
    found = calibrate(calibration(tmp_path, forecasters=[own]))
    assert found.best.psnr == max(trial.psnr for trial, _ in found.rows) > 0


def test_a_budget_that_allows_nothing_is_refused(tmp_path, calibration):
    with pytest.raises(InputError, match="allows no plan"):
        calibrate(calibration(tmp_path, budget=0.05))


@pytest.fixture
def own():
    """A forecaster of the user's own, by name: extrapolation that goes only part of the way."""

    @register_forecaster("part")
    @dataclass(frozen=True)
    class Part:
        share: float = 0.9
        history: int = 2

        def weights(self, stored, now, branch):
            ahead = self.share * (now.evaluation - stored[0].evaluation)
            return [1.0] if len(stored) < 2 else [1 + ahead, -ahead]

    yield "part"
    FORECASTERS.pop("part")


def test_forecasters_of_ones_own_are_tried(tmp_path, own, calibration, monkeypatch):
    monkeypatch.setattr("experiments.planning.search.CLOSED_FORMS", ())
    found = calibrate(calibration(tmp_path, forecasters=[{"name": own, "share": [0.1, 0.2]}, own], trials=0))
    names = {FORECASTERS["part"], Lagrange, Fitted}
    assert type(found.best.forecaster) in names
    of_the_best = [trial.forecaster for trial, _ in found.rows if trial.plan == found.best.plan]
    for share in (0.1, 0.2, 0.9):
        assert FORECASTERS["part"](share) in of_the_best, "it says what became of them"
    assert "part" not in {row["forecaster"]["name"] for row in load_plan(found.path).record["compared"]}
    tried = (tmp_path / "plans" / "a.trials.jsonl").read_text().count('"key"')
    calibrate(calibration(tmp_path, forecasters=[{"name": own, "share": [0.1, 0.2, 0.3]}, own], trials=0))
    assert (tmp_path / "plans" / "a.trials.jsonl").read_text().count('"key"') > tried, "another value, more trials"


@pytest.mark.parametrize(
    ("forecasters", "sentence"),
    [(["tailor"], "did you mean 'taylor'"), ([3], "not 3"), ([{"name": "taylor", "ordr": 2}], "did you mean 'order'")],
)
def test_forecasters_that_do_not_exist_are_refused(tmp_path, forecasters, sentence, calibration):
    with pytest.raises(InputError, match=sentence):
        calibrate(calibration(tmp_path, forecasters=forecasters))


def test_forecasters_are_called_by_what_distinguishes_them(own):
    named = {words(make_forecaster(each)) for each in ({"name": own, "share": 0.5}, {"name": own})}
    assert named == {"part share=0.5 history=2", "part share=0.9 history=2"}
    assert words(Lagrange(2, "log_snr")) == "lagrange 2 in log-SNR"
    assert words(Fitted({"1:0": [1.0]})) == "fitted"


# --- errors and fits


def test_the_error_of_no_cache_is_none(pipeline, sampler):
    error = EndError(pipeline, sampler, range(3), 2)
    assert error(NoCache().plan(8), Reuse()) == [1e-12] * 3
    assert mean_psnr([1e-2, 1e-4]) == pytest.approx(30)


def test_errors_do_not_depend_on_the_batch(pipeline, sampler):
    plan = (None, 0, NULL, None, 1, 1, NULL, 0)
    errors = [EndError(pipeline, sampler, range(5), size)(plan, Lagrange(1)) for size in (1, 2, 5)]
    assert errors[0] == pytest.approx(errors[1], rel=1e-3)
    assert errors[0] == pytest.approx(errors[2], rel=1e-3)


def test_adaptive_policies_are_tuned_to_the_budget(pipeline, sampler):
    """The limit found is the smallest that keeps it: one a little smaller refreshes too often."""
    error = EndError(pipeline, sampler, range(4), 2)
    budget = Budget(pass_costs(pipeline.unet.config), 0.7)
    found = list(tuned(error, budget, branch=1, interval=3, count=4))
    assert [type(each.policy) for each in found] == [Threshold, Threshold, Adaptive]
    for each in found:
        key = "bound" if isinstance(each.policy, Adaptive) else "threshold"
        smaller = replace(each.policy, **{key: getattr(each.policy, key) * 0.99})
        price = budget.price(tuple(error.adaptive(smaller, each.forecaster, 4).depths.elements()))
        assert each.price <= 0.7 < price
    assert not list(tuned(error, Budget(budget.costs, 0.2), branch=1, interval=1, count=2))[2:], "max_age forbids it"


@pytest.mark.parametrize("needed", [0.0123, 0.07, 1.7, 31.0])
def test_a_limit_is_found_to_three_parts_in_a_thousand(pipeline, needed):
    class Stepwise:
        """In the place of EndError: limits below `needed` refresh always, all others never."""

        def adaptive(self, policy, forecaster, count):
            return SimpleNamespace(depths=Counter([1 if policy.threshold >= needed else None]), errors=[1e-3])

    found = tune(Stepwise(), Budget(pass_costs(pipeline.unet.config), 0.7), Threshold, Reuse(), count=1)
    assert needed <= found.policy.threshold <= 1.003 * needed


def test_squared_errors_are_on_the_scale_of_zero_to_one():
    assert squared_errors(torch.ones(2, 1, 2, 2), -torch.ones(2, 1, 2, 2)) == [1.0, 1.0]


def test_the_ridge_solution_minimises_what_it_says():
    rng = np.random.default_rng(0)
    features, truth, prior, ridge = rng.normal(size=(3, 50)), rng.normal(size=50), np.array([2.0, -1.5, 0.5]), 0.1
    gram = features @ features.T
    w = np.array(_solve(NormalEquations(gram, features @ truth, prior), ridge))

    def loss(w):
        return ((truth - w @ features) ** 2).sum() + ridge * np.trace(gram) / 3 * ((w - prior) ** 2).sum()

    assert all(loss(w) < loss(w + step) for step in rng.normal(size=(20, 3)) * 1e-2)
    assert _solve(NormalEquations(gram, features @ truth, prior), 1e9) == pytest.approx(prior)


def test_the_teacher_knows_the_true_feature(pipeline, sampler):
    """A fit without ridge to one image foretells what reuse cannot, and leaves the trajectory as it was."""
    plan = (None, None, 1, NULL, None, 1, 1, NULL)
    fitted = fit(pipeline, sampler, plan, Lagrange(1), [5], 1, ridge=1e-9)
    assert set(fitted.table) == {"2:1", "3:-1", "5:1", "6:1", "7:-1"}
    teacher = Teacher(pipeline.unet, Explicit(entries=list(plan)), Lagrange(1))
    x, t = torch.randn(1, 1, 8, 8), torch.tensor([500])
    with torch.inference_mode():
        teacher.begin(8)
        for _ in range(3):
            teacher(x, t)
    equations = teacher.equations["2:1"]
    _, tapped = pipeline.unet(x, t, taps=[1])
    # Three times the same input: every stored feature is the true one.
    assert equations.cross == pytest.approx(np.diag(equations.gram))
    assert equations.gram[0, 0] == pytest.approx(float(tapped[1].square().sum()), rel=1e-4)


def test_the_teacher_knows_the_feature_of_the_same_condition():
    network = models.load("random", GUIDED)
    teacher = Teacher(network, Explicit(entries=[None, 0, 1]), Reuse())
    x, t, labels = torch.randn(2, 3, 16, 16), torch.tensor([500, 500]), torch.tensor([1, 3])
    with torch.inference_mode():
        teacher.begin(3)
        for _ in range(3):
            teacher(x, t, labels)
    assert set(teacher.equations) == {"1:0", "2:1"}
    for equations in teacher.equations.values():  # of the same input: what is stored is what is true
        assert equations.cross == pytest.approx(np.diag(equations.gram))
