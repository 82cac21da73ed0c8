"""experiments/cli.py: bad input ends with status 2 and one line; --help and interruptions end in order."""

import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from omegaconf import MISSING

import configs
from caching import POLICIES
from configs import InputError
from experiments.cli import end_if_rows_failed, main
from experiments.runs.run import SampleConfig

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Inner:
    steps: int = 5


@dataclass(frozen=True)
class Job:
    images: int = 1
    inner: Inner = field(default_factory=Inner)


@dataclass(frozen=True)
class Look:
    folder: str = MISSING
    limit: int = 3


@dataclass(frozen=True)
class Cost:
    model: str = "none"


@dataclass(frozen=True)
class Caching:
    policy: dict[str, Any] = field(default_factory=dict)


HELPED = """
from dataclasses import dataclass
from caching import register

@register("helped")
@dataclass(frozen=True)
class Helped:
    "Helps."
    often: int = 3

    def plan(self, num_evals):
        return (None,) * num_evals
"""


@dataclass(frozen=True)
class Sweep:
    grid: dict[str, Any] = field(default_factory=dict)
    title: str = "Sweep"


@pytest.fixture
def default(tmp_path):
    """A default configuration, with another beside it."""
    path = tmp_path / "default.yaml"
    path.write_text("images: 2\n")
    return str(path)


def seen(schema: type, words: list[str], **how) -> object:
    """The configuration that `words` hand to a script."""
    calls = []
    main(calls.append, schema, doc="usage", words=words, **how)
    (config,) = calls
    return config


def refusal(capsys: pytest.CaptureFixture, schema: type, words: list[str], **how) -> str:
    """The one line that a script ends with, at status 2, without having run."""
    ran = []
    with pytest.raises(SystemExit) as caught:
        main(ran.append, schema, doc="usage", words=words, **how)
    out, err = capsys.readouterr()
    assert caught.value.code == 2
    assert not ran
    assert out == ""
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    return err.removeprefix("error: ").strip()


def test_words_win_over_the_file_and_the_file_over_the_schema(default):
    assert seen(Job, [], default=default) == Job(2)
    assert seen(Job, ["inner.steps=7"], default=default) == Job(2, Inner(7))
    assert seen(Job, ["images=9"], default=default) == Job(9)


def test_a_key_that_changes_nothing_is_refused_among_the_words_alone(capsys, default):
    @dataclass(frozen=True)
    class Lazy(Job):
        UNUSED: ClassVar = ("images",)

    assert "images changes nothing here" in refusal(capsys, Lazy, ["images=3"], default=default)
    assert seen(Lazy, [], default=default).images == 2


def test_a_replaced_key_takes_the_place_of_the_default_file_s(tmp_path):
    (tmp_path / "default.yaml").write_text("grid: {a: 1}\ntitle: Of a\n")
    (tmp_path / "other.yaml").write_text("grid: {a: 2}\n")
    default = {"default": str(tmp_path / "default.yaml"), "replaced": {"grid": ["title"]}}
    assert seen(Sweep, [], **default) == Sweep({"a": 1}, "Of a")
    assert seen(Sweep, ["grid.b=3"], **default) == Sweep({"b": 3})
    assert seen(Sweep, ["grid.b=3", "title=Mine"], **default) == Sweep({"b": 3}, "Mine")
    assert seen(Sweep, [str(tmp_path / "other.yaml"), "grid.b=3"], **default).grid == {"a": 2, "b": 3}


@pytest.mark.parametrize("word", ["imort=mine.py", "imports=mine.py", "--import-=mine.py"])
def test_who_misspells_import_is_told(capsys, word):
    assert "did you mean import=FILE.py?" in refusal(capsys, Job, [word])


def test_a_script_of_another_checkout_is_refused(capsys, monkeypatch, tmp_path):
    """It would run the installed checkout's code, on its files."""
    for name in ("scripts/job.py", "configs/__init__.py"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).touch()
    monkeypatch.setattr(sys.modules["__main__"], "__file__", str(tmp_path / "scripts" / "job.py"), raising=False)
    assert f"pip install -e {tmp_path}" in refusal(capsys, Job, [])
    monkeypatch.setattr(configs, "ROOT", tmp_path)
    assert seen(Job, []) == Job()


@pytest.mark.parametrize("words", [["import={}"], ["import=[{}]"]])
def test_files_of_the_user_are_run_before_anything_is_read(tmp_path, monkeypatch, words):
    file = tmp_path / "mine.py"
    file.write_text("import configs\nconfigs.imported = True\n")
    monkeypatch.setattr("configs.imported", False, raising=False)
    assert seen(Job, [word.format(file) for word in words]) == Job()
    assert configs.imported


def test_a_configuration_file_may_name_files_of_the_user(tmp_path, monkeypatch):
    mine, file = tmp_path / "mine.py", tmp_path / "job.yaml"
    mine.write_text("import configs\nconfigs.imported = True\n")
    file.write_text(f"import: {mine}\n")
    monkeypatch.setattr("configs.imported", False, raising=False)
    assert seen(Job, [], default=str(file)) == Job()
    assert configs.imported


def test_fp32_is_not_rounded_to_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    main(lambda config: None, Job, doc="usage", words=[])
    assert not torch.backends.cudnn.allow_tf32


def test_the_first_word_may_be_another_file(default, tmp_path):
    (tmp_path / "other.yaml").write_text("images: 3\n")
    assert seen(Job, [str(tmp_path / "other.yaml"), "inner.steps=1"], default=default) == Job(3, Inner(1))


def test_the_first_word_may_be_a_name_beside_the_default():
    assert seen(Cost, ["cifar10"], default="configs/models/mnist32.yaml") == Cost("cifar10")


def test_scripts_without_a_file_take_an_argument_or_words_alone():
    assert seen(Look, ["images"], argument="folder") == Look("images")
    assert seen(Look, ["folder=a", "limit=1"], argument="folder") == Look("a", 1)
    assert seen(Look, ["folder=steps=50"], argument="folder") == Look("steps=50")
    assert seen(Look, ["folder=0e5"], argument="folder") == Look("0e5")
    assert seen(Job, ["images=4"]) == Job(4)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["image=3"], "the command line has no key 'image'; did you mean 'images'? known: images, inner"),
        (["inner.step=3"], "the command line has no key 'inner.step'; did you mean 'inner.steps'? known: inner.steps"),
        (["images=many"], "the command line: images must be an integer, not 'many'"),
        (["images=3", "oops"], "'oops' is not of the form key=value, e.g. num_images=16"),
        (["images=[1,"], "the value in 'images=[1,' is not readable YAML"),
        (["no/such.yaml"], "there is no configuration file no/such.yaml"),
        (["model.checkpoint=x"], "the command line has no key 'model'; known: images, inner"),
    ],
)
def test_bad_words_end_in_one_line(capsys, default, words, sentence):
    assert refusal(capsys, Job, words, default=default) == sentence


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("image: 3", "bad.yaml has no key 'image'; did you mean 'images'?"),
        ("inner: {step: 3}", "bad.yaml has no key 'inner.step'; did you mean 'inner.steps'?"),
        ("images: many", "bad.yaml: images must be an integer, not 'many'"),
        ("just text", "bad.yaml has no key 'just text'; known: images, inner"),
        ("- 1\n- 2", "bad.yaml must hold a mapping of keys to values"),
        ("a: [1\nb: 2", "bad.yaml is not readable YAML"),
    ],
)
def test_bad_files_end_in_one_line(capsys, default, tmp_path, content, sentence):
    (tmp_path / "bad.yaml").write_text(content)
    assert sentence in refusal(capsys, Job, [str(tmp_path / "bad.yaml")], default=default)


def test_a_name_that_is_none_ends_in_one_line(capsys):
    sentence = refusal(capsys, Job, ["mnist3"], default="configs/train/mnist32.yaml")
    assert "there is no configuration 'mnist3'" in sentence
    assert "did you mean 'mnist32'? known: cifar10_small, mnist32" in sentence


def test_a_missing_argument_ends_in_one_line(capsys):
    assert refusal(capsys, Look, [], argument="folder") == "the command line lacks folder"


@pytest.mark.parametrize("word", ["-h", "--help"])
def test_help_prints_the_doc_and_runs_nothing(capsys, word):
    main(pytest.fail, Job, doc="\nWhat this does.\n", default="nowhere.yaml", words=["images=x", word])
    out, err = capsys.readouterr()
    assert out.startswith("What this does.\n\nKeys, ")
    assert "\n  inner.steps=5\n" in out
    assert err == ""


def test_help_lists_what_the_user_s_files_register(capsys, tmp_path, monkeypatch):
    monkeypatch.setitem(POLICIES, "helped", None)  # forgotten afterwards
    monkeypatch.delitem(POLICIES, "helped")
    file = tmp_path / "mine.py"
    file.write_text(HELPED)
    main(pytest.fail, Caching, doc="usage", words=["--help", f"import={file}"])
    assert "helped often=3: Helps." in capsys.readouterr().out
    file.write_text("missing\n")
    assert "mine.py, line 1 fails with NameError" in refusal(capsys, Caching, ["--help", f"import=[{file}]"])


@pytest.mark.parametrize("value", ["3", "[3]", "[[a.py]]", "{a: 1}", ""])
def test_imports_that_are_no_files_end_in_one_line(capsys, value):
    assert "is no Python file" in refusal(capsys, Job, [f"import={value}"])


def test_several_processes_are_refused_where_they_share_no_work(capsys, monkeypatch):
    monkeypatch.setattr("experiments.cli.join", None)
    monkeypatch.setattr("experiments.cli.time.sleep", lambda seconds: None)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    assert refusal(capsys, Job, []) == "this script is the work of one process; start it without torchrun"
    assert seen(Job, [], shared=True) == Job()
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        main(pytest.fail, Job, doc="usage", words=[])
    assert (ended.value.code, capsys.readouterr().err) == (2, "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (InputError("two\n  lines"), 2, "error: two lines"),
        (OSError(28, "No space left on device", "state.pt"), 2, "error: No space left on device: state.pt"),
        (OSError("in words"), 2, "error: in words"),
        (
            torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total"),
            2,
            "error: the memory of the GPU does not hold this (2.00 GiB more were asked for); take a smaller "
            "batch_size, or precision=bf16",
        ),
        (KeyboardInterrupt(), 130, "interrupted; the same command goes on where it can"),
    ],
)
def test_errors_during_the_run_end_in_one_line(capsys, error, status, line):
    def run(config):
        raise error

    with pytest.raises(SystemExit) as caught:
        main(run, Job, doc="", words=[])
    assert caught.value.code == status
    assert capsys.readouterr().err == f"{line}\n"


@pytest.mark.parametrize(
    ("failures", "line"),
    [
        ({"a": "out of memory"}, "1 row failed; the first, a: out of memory"),
        ({"b": "no file", "a": "out of memory"}, "2 rows failed; the first, b: no file"),
    ],
)
def test_failed_rows_end_with_status_1_and_one_line(capsys, failures, line):
    with pytest.raises(SystemExit) as ended:
        end_if_rows_failed(failures)
    assert ended.value.code == 1
    assert capsys.readouterr().err.splitlines() == [line]


def test_where_no_row_failed_nothing_ends(capsys):
    end_if_rows_failed({})
    assert capsys.readouterr().err == ""


def test_our_own_mistakes_are_not_hidden():
    def run(config):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        main(run, Job, doc="", words=[])


def test_a_script_started_from_elsewhere_refuses_in_one_line(tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = [sys.executable, str(ROOT / "scripts" / "train.py"), "cifar10_small", "learning_rat=1"]
    process = subprocess.run(script, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr.count("\n") == 1
    assert "did you mean 'learning_rate'?" in process.stderr


def test_another_model_under_the_default_s_settings_is_pointed_out(capsys):
    """cifar10's own are quadratic timesteps, say."""
    main(lambda config: None, SampleConfig, doc="", default="mnist32", words=["model=cifar10"])
    assert "cifar10 is sampled with the settings of mnist32; its own are" in capsys.readouterr().err
    for words in (["cifar10"], ["cifar10", "model=mnist32"], ["model=mnist32"], ["seed=1"]):
        main(lambda config: None, SampleConfig, doc="", default="mnist32", words=words)
        assert capsys.readouterr().err == ""


def test_output_that_nobody_reads_on_is_no_error():
    script = str(configs.ROOT / "scripts" / "sweep.py")
    command = f"{sys.executable} {script} --help | head -n 1"
    done = subprocess.run(["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(configs.ROOT)})  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
