"""Plan files: read back as written, refused where they do not belong."""

import json
from dataclasses import replace

import pytest

from caching import MadeFor, PlanFile, SavedPlan, load_plan, make_policy
from configs import InputError

PIPELINE = {"guidance.scale": 1.5, "guidance.interval": [0.3, 5.0], "height": None}
MADE_FOR = MadeFor("ab" * 32, {"name": "ddim", "steps": 4}, [750, 500, 250, 0], PIPELINE)
SAVED = SavedPlan(
    entries=[None, -1, 2, None],
    forecaster={"name": "lagrange", "order": 2, "clock": "evaluation"},
    made_for=MADE_FOR,
    record={"seeds": [1, 2]},
)


@pytest.fixture
def path(tmp_path):
    SAVED.save(tmp_path / "plan.json")
    return tmp_path / "plan.json"


def test_a_plan_comes_back_as_it_was_saved(path):
    assert load_plan(path) == SAVED


def test_a_file_name_is_a_policy(path):
    policy = make_policy({"name": str(path)})
    assert isinstance(policy, PlanFile)
    assert policy.plan(4) == (None, -1, 2, None)
    assert policy.forecaster.order == 2


def test_it_fits_what_it_was_made_for():
    for rest in ({}, {"guidance.interval": (0.3, 5.0)}, {"width": None}):
        MADE_FOR.check(replace(MADE_FOR, pipeline=PIPELINE | rest))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"checkpoint": "cd" * 32}, "made for the weights with sha256 abababababab, not for cdcdcdcdcdcd"),
        ({"sampler": {"name": "ddim", "steps": 5}}, "made for sampler.steps=4, not 5"),
        ({"timesteps": [750, 500, 250, 1]}, "made for other timesteps"),
        ({"pipeline": {"guidance.scale": 7.5}}, r"made for guidance\.scale=1\.5, not 7\.5"),
        ({"pipeline": {"height": 64}}, "made for height=None, not 64"),
        ({"pipeline": {"guidance.every": 2}}, r"made for guidance\.every=None, not 2"),  # where it says nothing of it
    ],
)
def test_a_foreign_plan_is_refused(path, changed, sentence):
    with pytest.raises(InputError, match=rf"plan\.json does not fit: it was {sentence}"):
        PlanFile(str(path)).check(replace(MADE_FOR, **changed))


@pytest.mark.parametrize("evals", [3, 5])
def test_another_number_of_evaluations_is_refused(path, evals):
    with pytest.raises(InputError, match=f"plan of 4 network evaluations, but the sampler makes {evals}"):
        PlanFile(str(path)).plan(evals)


@pytest.mark.parametrize("content", ["", "{", "[1]", '{"format": "plan/9"}', '{"entries": []}'])
def test_what_is_no_plan_is_refused_in_a_sentence(tmp_path, content):
    (tmp_path / "plan.json").write_text(content)
    with pytest.raises(InputError, match="plan file"):
        load_plan(tmp_path / "plan.json")


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"forecaster": {"name": "guess"}}, r"the forecaster 'guess' does not exist.*import=FILE\.py"),
        ({"entries": [None]}, "1 entries for 4 network evaluations"),
    ],
)
def test_a_plan_that_cannot_be_used_names_its_file(path, changed, sentence):
    path.write_text(json.dumps(json.loads(path.read_text()) | changed))
    with pytest.raises(InputError, match=rf"plan\.json is no plan that can be used: .*{sentence}"):
        load_plan(path)


def test_unknown_and_missing_keys_are_refused(path):
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content | {"entrys": []}))
    with pytest.raises(InputError, match="no key 'entrys'"):
        load_plan(path)
    del content["made_for"]["timesteps"]
    path.write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"lacks made_for\.timesteps"):
        load_plan(path)


@pytest.mark.parametrize("entry", ["a", [1], 0.5, True])
def test_entries_that_are_no_depths_are_refused(path, entry):
    path.write_text(json.dumps(json.loads(path.read_text()) | {"entries": [None, entry, 2, None]}))
    with pytest.raises(InputError, match="an entry of a plan is null"):
        load_plan(path)


def test_a_missing_file_says_what_writes_plans(tmp_path):
    with pytest.raises(InputError, match=r"no plan file .*calibrate"):
        load_plan(tmp_path / "none.json")
