"""experiments/plugins.py: import=FILE.py makes a user's own policies known."""

import os
import sys

import pytest

import configs
from caching import FORECASTERS, POLICIES, make_forecaster, make_policy
from configs import InputError
from experiments.plugins import code_of, load, words_of
from experiments.rows.rows import Row, key
from experiments.runs.run import SampleConfig, prepare
from experiments.runs.world import World

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


@pytest.mark.parametrize("settings", [{"policy": {"name": "alternate"}}, {"forecaster": {"name": "mean"}}])
def test_results_depend_on_the_code_of_what_is_the_user_s_own(mine, tiny, settings):
    """An edited formula is another policy under the same name: what was made with it is not what will be."""
    layer = {"model": tiny, "checkpoint": "random", "policy": {"name": "uniform", "branch": 1}, "device": "cpu"}

    def names() -> tuple[str, str]:
        load([str(mine)])
        config = configs.parse(SampleConfig, layer, settings, where="test")
        return key(Row("row", config)), str(prepare(config, World()).folder.path)

    before = names()
    assert names() == before
    mine.write_text(MINE.replace("[1 / len(stored)] * len(stored)", "[1.0] + [0.0] * (len(stored) - 1)"))
    assert not set(names()) & set(before)


def test_what_a_file_imports_from_beside_it_is_its_code_too(mine, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    for name in ("tables_beside", "shapes_beside"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    helper, deeper = tmp_path / "tables_beside.py", tmp_path / "shapes_beside.py"
    deeper.write_text("COUNT = 2\n")
    helper.write_text("import shapes_beside\nSTEPS = [1, 2]\n")
    mine.write_text(MINE + "\nfrom tables_beside import STEPS\nimport numpy\n")
    load([str(mine)])
    codes = [code_of(POLICIES["alternate"])]
    for file, content in ((helper, "import shapes_beside\nSTEPS = [1, 3]\n"), (deeper, "COUNT = 3\n")):
        file.write_text(content)
        codes.append(code_of(POLICIES["alternate"]))
    assert len({str(code) for code in codes}) == 3
    assert words_of(POLICIES["alternate"]) == [f"import={os.path.relpath(mine)}"]


def test_modules_of_one_name_beside_two_files_are_refused(mine, tmp_path, monkeypatch):
    """Python knows one of them, which the other file would silently run with."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "helpers_beside", raising=False)
    other = tmp_path / "other" / "theirs.py"
    other.parent.mkdir()
    for folder in (tmp_path, other.parent):
        (folder / "helpers_beside.py").write_text("x = 1\n")
    mine.write_text(MINE + "\nimport helpers_beside\n")
    other.write_text("from helpers_beside import x\n")
    load([str(mine)])
    load([str(mine)])
    with pytest.raises(InputError, match=r"theirs\.py imports helpers_beside, but not .*other/helpers_beside\.py"):
        load([str(other)])


def test_bases_of_the_user_s_own_are_its_code_too(mine, tmp_path):
    load([str(mine)])
    derived = tmp_path / "derived.py"
    derived.write_text("from caching import POLICIES\nclass Derived(POLICIES['alternate']):\n    pass\n")
    load([str(derived)])
    (module,) = (module for name, module in sys.modules.items() if name.startswith("imported_derived_"))
    before = code_of(module.Derived)
    mine.write_text(MINE.replace("(0, num_evals, 2)", "(0, num_evals, 3)"))
    assert code_of(module.Derived) != before


def test_built_in_policies_have_no_code_of_their_own():
    assert code_of(*POLICIES.values(), *FORECASTERS.values()) == {}


def test_files_of_one_name_in_two_folders_are_two(mine, tmp_path):
    load([str(mine)])
    other = tmp_path / "other" / "mine.py"
    other.parent.mkdir()
    other.write_text("x = 1\n")
    load([str(other)])
    own = code_of(POLICIES["alternate"])
    mine.write_text(MINE + "\n# a comment\n")
    assert code_of(POLICIES["alternate"]) == own
    mine.write_text(MINE + "\ny = 1\n")
    assert code_of(POLICIES["alternate"]) != own


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ('@register("alternate")\n@dataclass(frozen=True)', '@dataclass(frozen=True)\n@register("alternate")',
         r"mine\.py, line \d+: the policy 'alternate', class Alternate, is no dataclass"),
        ('"alternate"', '"uniform"', r"mine\.py, line \d+: there is a policy 'uniform' already, caching\.policies"),
        ("    history = 2\n", "", "lacks what a forecaster must have: 'history' and 'weights'"),
    ],
)  # fmt: skip
def test_a_class_that_cannot_be_used_is_named_with_its_line(mine, old, new, sentence):
    assert old in MINE
    mine.write_text(MINE.replace(old, new))
    with pytest.raises(InputError, match=sentence):
        load([str(mine)])


@pytest.mark.parametrize("name", ["missing.py", "mine.txt", ""])
def test_what_is_no_python_file_is_refused(mine, monkeypatch, name):
    monkeypatch.chdir(mine.parent)
    (mine.parent / "mine.txt").touch()
    with pytest.raises(InputError, match=f"import={name} is no Python file"):
        load([name])
