"""experiments/plugins.py: import=FILE.py makes a user's own policies known."""

import sys

import pytest

from caching import FORECASTERS, POLICIES, make_forecaster, make_policy
from configs import InputError
from experiments.plugins import load

MINE = """
from __future__ import annotations

from dataclasses import dataclass

from caching import partial_between, register, register_forecaster


@register("alternate")
@dataclass(frozen=True)
class Alternate:
    branch: int = 0

    def plan(self, num_evals: int):
        return partial_between(range(0, num_evals, 2), self.branch, num_evals)


@register_forecaster("mean")
@dataclass(frozen=True)
class Mean:
    history = 2

    def weights(self, stored, now, branch):
        return [1 / len(stored)] * len(stored)
"""


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file with a policy and a forecaster; both are forgotten afterwards."""
    for registry in (POLICIES, FORECASTERS):
        for name in ("alternate", "mean"):
            monkeypatch.setitem(registry, name, None)
            monkeypatch.delitem(registry, name)
    monkeypatch.setitem(sys.modules, "imported_mine", None)
    path = tmp_path / "mine.py"
    path.write_text(MINE)
    return path


def test_what_a_file_registers_can_be_named(mine):
    load([str(mine)])
    assert make_policy({"name": "alternate", "branch": 1}).plan(3) == (None, 1, None)
    assert make_forecaster({"name": "mean"}).weights(["a", "b"], None, 0) == [0.5, 0.5]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("x = 1\ny = missing\n", r"mine\.py, line 2 fails with NameError: name 'missing' is not defined"),
        ("x = 1\ndef f(:\n", r"mine\.py, line 2 fails with SyntaxError"),
    ],
)
def test_a_file_that_fails_is_named_with_its_line(mine, content, sentence):
    mine.write_text(content)
    with pytest.raises(InputError, match=sentence):
        load([str(mine)])


@pytest.mark.parametrize("name", ["missing.py", "mine.txt", ""])
def test_what_is_no_python_file_is_refused(mine, monkeypatch, name):
    monkeypatch.chdir(mine.parent)
    (mine.parent / "mine.txt").touch()
    with pytest.raises(InputError, match=f"import={name} is no Python file"):
        load([name])
