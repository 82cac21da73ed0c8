"""The README is a promise: its example policy runs, and what it names exists."""

import re

import pytest

import configs
from caching import FORECASTERS, POLICIES, Moment, make_forecaster, make_policy

README = (configs.ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_policy_runs():
    example = next(code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@register(" in code)
    assert len(example.strip().splitlines()) < 20
    try:
        exec(example, {})
        policy = make_policy({"name": "warmup", "full": 3, "interval": 2, "branch": 4})
        assert policy.plan(8) == (None, None, None, None, 4, None, 4, None)
    finally:
        POLICIES.pop("warmup", None)


def test_the_example_forecaster_runs():
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    example = next(code for code in examples if "@register_forecaster" in code)
    assert len(example.strip().splitlines()) < 20
    try:
        exec(example, {})
        forecaster = make_forecaster({"name": "damped", "share": 0.5})
        assert forecaster.weights([Moment(4), Moment(2)], Moment(5), 0) == [1.25, -0.25]
    finally:
        FORECASTERS.pop("damped", None)


@pytest.mark.parametrize("script", sorted(set(re.findall(r"scripts/\w+\.py", README))))
def test_scripts_exist(script):
    assert (configs.ROOT / script).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"scripts/sample\.py (?!CONFIG)([a-z]\w*)\b(?!=|\.)", README))))
def test_configurations_exist(name):
    assert configs.find(name).is_file()


def test_pictures_and_files_exist():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)|`((?:configs|checkpoints|caching)/[\w/.]+\.\w+)`", README):
        assert (configs.ROOT / (path[0] or path[1])).is_file(), path
