"""The README is a promise: its example policy runs, and what it names exists."""

import itertools
import re
import shlex

import pytest

import configs
from caching import FORECASTERS, POLICIES, Moment, make_forecaster, make_policy
from experiments.cli import main
from experiments.grid import strategies
from experiments.plugins import load
from experiments.runs.run import SampleConfig, sampler_of

README = (configs.ROOT / "README.md").read_text(encoding="utf-8")


EXAMPLES = [code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "@register" in code]


@pytest.fixture
def mine(tmp_path):
    """The file that the README has its readers save, with its policy and its forecaster."""
    (tmp_path / "mine.py").write_text("\n\n".join(EXAMPLES), encoding="utf-8")
    yield tmp_path / "mine.py"
    POLICIES.pop("warmup", None)
    FORECASTERS.pop("damped", None)


def test_the_examples_run(mine):
    assert all(len(example.strip().splitlines()) < 20 for example in EXAMPLES)
    load([str(mine)])
    policy = make_policy({"name": "warmup", "full": 3, "interval": 2, "branch": 4})
    assert policy.plan(8) == (None, None, None, None, 4, None, 4, None)
    forecaster = make_forecaster({"name": "damped", "share": 0.5})
    assert forecaster.weights([Moment(4), Moment(2)], Moment(5), 0) == [1.25, -0.25]


@pytest.mark.parametrize("command", re.findall(r"scripts/sample\.py ([^`\n#]*[^`\n# ])", README))
def test_sampling_commands_mean_something(command, mine):
    if any(part in command for part in ("…", "...", "CONFIG")):
        pytest.skip("a pattern, no command")
    words = [word.rstrip(",").replace("mine.py", str(mine)) for word in shlex.split(command)]
    names = itertools.takewhile(lambda word: re.fullmatch(r"\w+", word), words)  # configurations, listed with commas
    for name in list(names) or [None]:
        given = [word for word in words if "=" in word]
        main(_try, SampleConfig, doc="", default="mnist32", words=[*filter(None, [name]), *given])


def _try(config: SampleConfig) -> None:
    if not str(config.policy["name"]).endswith(".json"):
        assert strategies(config.policy, config.forecaster, sampler_of(config))


@pytest.mark.parametrize("script", sorted(set(re.findall(r"scripts/\w+\.py", README))))
def test_scripts_exist(script):
    assert (configs.ROOT / script).is_file()


@pytest.mark.parametrize("name", sorted(set(re.findall(r"scripts/sample\.py (?!CONFIG)([a-z]\w*)\b(?!=|\.)", README))))
def test_configurations_exist(name):
    assert configs.find(name).is_file()


def test_pictures_and_files_exist():
    for path in re.findall(r"\]\((?!http)([^)#]+)\)|`((?:configs|checkpoints|caching)/[\w/.]+\.\w+)`", README):
        assert (configs.ROOT / (path[0] or path[1])).is_file(), path
