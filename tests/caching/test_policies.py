"""Plans of every policy, as plain tuples."""

import json
import math
from dataclasses import dataclass, make_dataclass
from enum import Enum
from pathlib import Path

import numpy as np
import pytest

from caching import (
    NULL,
    POLICIES,
    Explicit,
    Nested,
    NoCache,
    Nonuniform,
    Uniform,
    full_evals,
    make_policy,
    partial_between,
    plan_of,
)
from caching.policies import quad, quad_centre
from configs import InputError

# facts of the released code, run: (T, N, center, power) -> full passes
RELEASED = {
    (50, 5, 15, 1.4): [0, 5, 9, 13, 17, 21, 26, 31, 37, 43],
    (50, 5, 10, 1.5): [0, 4, 7, 10, 14, 19, 24, 30, 36, 43],
    (50, 5, 15, 1.3): [0, 5, 10, 14, 17, 22, 26, 32, 37, 43],
    (50, 5, 15, 1.2): [0, 5, 10, 14, 18, 22, 27, 32, 38, 44],
    (250, 10, 110, 1.2): [0, 11, 22, 32, 43, 53, 62, 72, 81, 91, 99, 108, 116, 125, 134, 144, 153, 163, 173, 184, 194,
                          205, 216, 227, 238],
    (250, 20, 120, 1.2): [0, 22, 42, 62, 80, 98, 116, 132, 149, 168, 187, 207, 228],
    (250, 20, 120, 1.4): [0, 22, 42, 61, 80, 98, 115, 131, 149, 168, 187, 207, 228],
}  # fmt: skip


def test_no_cache_runs_everything_in_full():
    assert NoCache().plan(4) == (None,) * 4


def test_uniform_runs_every_nth_evaluation_in_full():
    assert Uniform(interval=3, branch=2).plan(7) == (None, 2, 2, None, 2, 2, None)


def test_interval_one_is_no_cache():
    assert Uniform(interval=1, branch=2).plan(10) == NoCache().plan(10)


def test_full_passes_of_uniform_are_the_ceiling_of_t_over_n():
    for total in (1, 7, 50, 100):
        for interval in (1, 2, 3, 5, 10, 20):
            assert len(full_evals(Uniform(interval).plan(total))) == math.ceil(total / interval)


def test_the_horizon_leaves_later_evaluations_partial():
    plan = Uniform(interval=5, branch=1, horizon=50).plan(51)  # PLMS: 50 steps, 51 network calls
    assert len(full_evals(plan)) == 10
    assert plan[50] == 1


@pytest.mark.parametrize("policy", [Uniform, Nonuniform])
@pytest.mark.parametrize("horizon", [0, -3])
def test_a_horizon_before_the_first_evaluation_is_refused(policy, horizon):
    with pytest.raises(InputError, match="horizon must be at least 1"):
        policy(horizon=horizon)


@pytest.mark.parametrize(("setting", "full"), RELEASED.items())
def test_nonuniform_is_the_released_schedule(setting, full):
    assert quad_centre(*setting) == full


def test_where_points_fall_together_the_power_falls_by_two_hundredths():
    """The formula in complex numbers, by the first power from 1.4 down of which all 10 full passes differ."""
    steps, interval, center = 20, 2, 6

    def schedule(power: float) -> set[int]:
        start, stop, count = (-center) ** (1 / power), (steps - center) ** (1 / power), steps // interval
        points = ((start + i * (stop - start) / count) ** power for i in range(1, count))
        return {0, *(int(point.real) + center for point in points)}

    tried = [schedule(1.4 - 0.02 * attempt) for attempt in range(20)]
    found = next(full for full in tried if len(full) == 10)
    assert found != tried[0]
    assert found not in (schedule(1.35), schedule(1.3))  # a coarser step would find another one
    assert quad_centre(steps, interval, center, 1.4) == sorted(found)


def test_nonuniform_equals_the_released_tables(golden):
    for name, table in golden("sampler_deepcache_nonuniform_tables").config.items():
        words = dict(word.split("=") for word in name.split()[1:])
        total, full = int(words["total"]), table["indices"] if isinstance(table, dict) else table
        interval, power = total / int(words["n"]), float(words["pow"])
        if "center" in words:
            assert quad_centre(total, interval, int(words["center"]), power) == full, name
        else:  # the LDM code has no center
            assert quad(total, interval, power) == full, name


@pytest.mark.parametrize(
    ("setting", "full"), [((20, 2, 1.5), [0, 1, 3, 5, 7, 9, 11, 14, 17]), ((6, 1, 3.0), [0, 1, 3])]
)
def test_without_a_center_points_that_fall_together_are_one(setting, full):
    """By the formula: unique(int(linspace(0, T^(1/p), k + 1)^p)) without the last."""
    steps, interval, power = setting
    line = [i * steps ** (1 / power) / math.ceil(steps / interval) for i in range(math.ceil(steps / interval))]
    assert sorted({int(point**power) for point in line}) == full
    assert list(full_evals(Nonuniform(interval, 1, None, power).plan(steps))) == full


def test_the_signed_power_reading_of_the_paper_is_another_schedule():
    ends = -(15 ** (1 / 1.4)), 35 ** (1 / 1.4)
    line = np.linspace(*ends, 10)
    signed = (np.sign(line) * np.abs(line) ** 1.4 + 15).astype(int)
    assert list(signed)[:3] != quad_centre(50, 5, 15, 1.4)[:3]


@pytest.mark.parametrize(("steps", "interval", "center"), [(50, 2, 25), (250, 2, 125)])
def test_a_schedule_that_does_not_exist_is_refused(steps, interval, center):
    with pytest.raises(InputError, match="no non-uniform schedule"):
        Nonuniform(interval, 1, center, 1.2).plan(steps)


def test_explicit_plans_are_taken_as_written():
    assert Explicit(full=[0, 3], branch=1).plan(5) == (None, 1, 1, None, 1)
    assert Explicit(entries=[None, 2, 0]).plan(3) == (None, 2, 0)


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"name": "uniforn"}, "did you mean 'uniform'"),
        ({"name": "uniform", "intervall": 3}, "did you mean 'interval'"),
        ({"name": "uniform", "interval": 0}, "interval must be at least 1"),
        ({"name": "uniform", "interval": "often"}, "interval"),
        ({"name": "nonuniform", "power": 1.0}, "power must lie above 1"),
        ({"name": "nonuniform", "power": float("inf")}, "not above 10, not inf"),
        ({"name": "none", "branch": 1}, "has no key 'branch'"),
        ({"name": "explicit"}, "either `entries`, or `full`"),
        ({"name": "explicit", "full": [0]}, "either `entries`, or `full`"),
        ({"name": "explicit", "entries": [None, "deep"]}, "not 'deep'"),
    ],
)
def test_wrong_settings_end_in_one_sentence(settings, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        make_policy(settings)
    assert "\n" not in str(error.value)


class Planned:
    """Plans what it is told to."""

    def __init__(self, entries):
        self.entries = entries

    def plan(self, num_evals):
        return self.entries


def test_whole_numbers_of_other_libraries_are_branches():
    plan = plan_of(Planned([None, np.int64(2), np.uint8(0)]), 3)
    assert plan == (None, 2, 0)
    assert json.dumps(plan) == "[null, 2, 0]"


@pytest.mark.parametrize("entries", [[None, 1.0], [None, "1"], [None, True], [None, np.float32(1)], [None, [1]]])
def test_what_is_no_depth_is_refused(entries):
    with pytest.raises(InputError, match=r"null \(a full pass\) or a branch number, not "):
        plan_of(Planned(entries), 2)


@pytest.mark.parametrize("entries", [None, 3, "F1F1"])
def test_what_is_no_plan_is_refused(entries):
    with pytest.raises(InputError, match=r"Planned\.plan gives .*; it must give one entry per network evaluation"):
        plan_of(Planned(entries), 2)


@pytest.mark.parametrize("full", [[0, 2.5], [0, 5], [-1], ["0"]])
def test_full_passes_that_are_no_evaluations_are_refused(full):
    with pytest.raises(InputError, match=r"full pass .* is not an evaluation; the sampler makes 0\.\.4"):
        partial_between(full, 1, 5)


@pytest.fixture
def register():
    """Registers policies that are forgotten afterwards."""
    before = dict(POLICIES)
    yield POLICIES.register
    POLICIES.clear()
    POLICIES.update(before)


@pytest.mark.parametrize(
    ("members", "lacking"),
    [({}, "'plan', or 'branch' and 'due'"), ({"due": lambda self, probe: True}, "'branch' and 'due'"),
     ({"branch": 1}, "'plan', or 'branch' and 'due'")],
)  # fmt: skip
def test_classes_that_lack_what_a_policy_must_have_are_refused(register, members, lacking):
    with pytest.raises(InputError, match=f"the policy 'mine', class Mine, lacks what a policy must have: .*{lacking}"):
        register("mine")(dataclass(frozen=True)(type("Mine", (), members)))


def test_a_field_without_a_default_counts(register):
    mine = make_dataclass("Mine", [("branch", int)], frozen=True, namespace={"due": lambda self, probe: True})
    assert register("mine")(mine) is mine
    assert make_policy({"name": "mine", "branch": 2}) == mine(2)


Hue = Enum("Hue", ["RED"])
PLAN = {"plan": lambda self, num_evals: (None,) * num_evals}


@pytest.mark.parametrize(
    ("made", "sentence"),
    [
        (make_dataclass("Mine", [], namespace=PLAN), "is not frozen; write @dataclass"),
        (make_dataclass("Mine", [("name", str)], frozen=True, namespace=PLAN), "has a field `name`, which no"),
        (make_dataclass("Mine", [("steps", tuple[int, ...])], frozen=True, namespace=PLAN), "has a field steps of"),
        (make_dataclass("Mine", [("steps", list)], frozen=True, namespace=PLAN), "has a field steps of a type that no"),
        (make_dataclass("Mine", [("x", np.float32)], frozen=True, namespace=PLAN), "has a field x of a type that no"),
        (make_dataclass("Mine", [("x", object)], frozen=True, namespace=PLAN), "has a field x of a type that no"),
        (make_dataclass("Mine", [("x", Path)], frozen=True, namespace=PLAN), "has a field x of a type that no"),
        (
            make_dataclass("Mine", [("x", Hue | None)], frozen=True, namespace=PLAN),
            "has a field x of a type that no",
        ),
        (
            make_dataclass("Mine", [("branch", int)], frozen=True, namespace={**PLAN, "due": lambda self, probe: True}),
            "has what two kinds of policy have, and could mean either; give it 'plan', or 'branch' and 'due'",
        ),
    ],
)
def test_classes_that_no_configuration_can_make_are_refused(register, made, sentence):
    with pytest.raises(InputError, match=f"the policy 'mine', class Mine, {sentence}"):
        register("mine")(made)


def test_a_subclass_whose_new_fields_would_be_no_settings_is_refused(register):
    class Mine(Uniform):
        extra: int = 3

    with pytest.raises(InputError, match="class Mine, is no dataclass"):
        register("mine")(Mine)
    register("mine")(dataclass(frozen=True)(Mine))
    assert make_policy({"name": "mine", "extra": 4}).extra == 4


def test_a_plan_that_fails_names_its_class_and_line():
    class Broken:
        def plan(self, num_evals):
            yield None
            yield 1 // 0

    line = Broken.plan.__code__.co_firstlineno + 2
    with pytest.raises(InputError, match=rf"Broken\.plan fails with ZeroDivisionError: .*_policies\.py, line {line}"):
        plan_of(Broken(), 2)
    with pytest.raises(InputError, match=r"str\.plan fails with AttributeError"):
        plan_of("uniform", 2)


def test_a_registration_without_a_name_is_refused(register):
    with pytest.raises(InputError, match=r'a policy is registered under a name: @register\("mine"\), not @register'):
        register(make_dataclass("Mine", [], frozen=True, namespace=PLAN))


def test_two_classes_of_one_file_do_not_share_a_name(register):
    register("mine")(make_dataclass("Mine", [], frozen=True, namespace=PLAN))
    with pytest.raises(InputError, match="there is a policy 'mine' already"):
        register("mine")(make_dataclass("Other", [], frozen=True, namespace=PLAN))


@pytest.mark.parametrize("policy", [Uniform(5, 1, horizon=50), Nonuniform(5, 1, center=10, horizon=50)])
def test_a_horizon_beyond_the_sampler_is_named(policy):
    with pytest.raises(InputError, match="horizon 50 lies beyond the 26 network evaluations of this sampler"):
        policy.plan(26)


def test_a_class_that_is_no_dataclass_is_refused(register):
    with pytest.raises(InputError, match=r"class Planned, is no dataclass; put @dataclass\(frozen=True\) right above"):
        register("planned")(Planned)


@pytest.mark.parametrize(("name", "sentence"), [("uniform", "there is a policy 'uniform' already"),
                                                ("a.json", "no policy can be called 'a.json'")])  # fmt: skip
def test_names_that_have_a_meaning_are_refused(register, name, sentence):
    mine = make_dataclass("Mine", [], frozen=True, namespace={"plan": lambda self, num_evals: (None,) * num_evals})
    with pytest.raises(InputError, match=sentence):
        register(name)(mine)
    assert POLICIES["uniform"] is Uniform


def test_a_module_may_define_its_own_class_anew(register):
    for _ in range(2):
        mine = make_dataclass("Mine", [], frozen=True, namespace={"plan": lambda self, num_evals: ()})
        mine.__module__ = "notebook"
        register("mine")(mine)
    assert POLICIES["mine"] is mine


@pytest.mark.parametrize("center", [-1, 50])
def test_a_centre_outside_the_steps_is_refused(center):
    with pytest.raises(InputError, match=rf"center must lie in 0\.\.49, not {center}"):
        Nonuniform(center=center).plan(50)


@pytest.mark.parametrize("center", [0, 49])
def test_the_first_and_the_last_step_can_be_the_centre(center):
    assert len(full_evals(Nonuniform(center=center).plan(50))) == 10


@pytest.mark.parametrize("branches", [[], [2, 1], [1, 1], [NULL - 1, 1]])
def test_nested_branches_that_do_not_ascend_are_refused(branches):
    with pytest.raises(InputError, match="branches must ascend from the outermost, -1 at the least"):
        Nested(branches, [2] * len(branches))


def test_settings_reach_the_policy():
    assert make_policy({"name": "nonuniform", "interval": 10, "center": 30}) == Nonuniform(interval=10, center=30)
    assert make_policy({"name": "explicit", "entries": [None, 1]}).plan(2) == (None, 1)
    assert set(POLICIES) >= {"none", "uniform", "nonuniform", "explicit"}
