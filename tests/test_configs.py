"""configs/__init__.py: YAML and words become typed dataclasses; errors name the place, the key and the remedy."""

import re
from dataclasses import FrozenInstanceError, dataclass, field, fields
from typing import Any

import pytest
from omegaconf import MISSING

import configs
from configs import InputError
from experiments.benchmark.settings import BenchmarkConfig
from experiments.model import ModelConfig
from experiments.paper.paper_tables import PaperTable
from experiments.runs.run import SampleConfig
from experiments.sweeps.sweep import SweepConfig
from experiments.training.trainer import TrainConfig


@dataclass(frozen=True)
class Inner:
    size: int = 3
    widths: list[float] = field(default_factory=lambda: [1.0, 2.0])

    def __post_init__(self):
        object.__setattr__(self, "widths", tuple(self.widths))
        if self.size < 0:
            raise InputError(f"size must be at least 0, not {self.size}")


@dataclass(frozen=True)
class Outer:
    images: int = 5
    rate: float = 0.5
    flip: bool = False
    name: str = "a"
    limit: int | None = None
    inner: Inner = field(default_factory=Inner)
    other: Inner | None = None
    entries: list[Inner] = field(default_factory=list)
    files: dict[str, Inner] = field(default_factory=dict)
    policy: dict[str, Any] = field(default_factory=lambda: {"name": "uniform", "interval": 5})
    prompt: str | None = None
    size: int | str = 16
    labels: list[int] | None = None


@dataclass(frozen=True)
class Named:
    path: str = "here"
    title: str | None = "a title"


@dataclass(frozen=True)
class Naming:
    one: Named | None = None
    several: dict[str, Named] = field(default_factory=dict)


@dataclass(frozen=True)
class Required:
    path: str = MISSING
    inner: Inner = MISSING
    flip: bool = False


def parse(*words: str, schema: type = Outer, where: str = "the words"):
    return configs.parse(schema, configs.parse_words(words), where=where)


# --- parse


def test_nothing_given_is_all_defaults():
    assert configs.parse(Outer, where="here") == Outer()


def test_later_layers_win_key_by_key():
    parsed = configs.parse(
        Outer, {"images": 1, "inner": {"size": 7}}, {"images": 2, "inner": {"widths": [4]}}, where="x"
    )
    assert parsed == Outer(images=2, inner=Inner(7, [4.0]))


def test_frozen_dataclasses_stay_frozen_inside_and_out():
    parsed = parse("inner.size=4")
    with pytest.raises(FrozenInstanceError):
        parsed.images = 1
    with pytest.raises(FrozenInstanceError):
        parsed.inner.size = 1


def test_lists_become_what_the_dataclass_makes_of_them():
    parsed = parse("inner.widths=[1,3]")
    assert parsed.inner.widths == (1.0, 3.0)
    assert isinstance(parsed.inner.widths, tuple)
    assert {parsed.inner}  # hashable


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("images=2_000", Outer(images=2000)),
        ("rate=3e-4", Outer(rate=3e-4)),
        ("rate=1", Outer(rate=1.0)),
        ("flip=true", Outer(flip=True)),
        ("name=5", Outer(name="5")),
        ("name=outputs/steps=50", Outer(name="outputs/steps=50")),
        ("limit=3", Outer(limit=3)),
        ("limit=null", Outer()),
        ("other.size=1", Outer(other=Inner(1))),
        ("entries=[{size: 1}, {size: 2}]", Outer(entries=[Inner(1), Inner(2)])),
        ("files.a.size=9", Outer(files={"a": Inner(9)})),
        ("policy.interval=3", Outer(policy={"name": "uniform", "interval": 3})),
    ],
)
def test_words_are_read_as_the_schema_wants_them(word, expected):
    assert parse(word) == expected


def test_a_free_mapping_of_another_name_starts_afresh():
    assert parse("policy.name=none").policy == {"name": "none"}
    assert parse("policy.name=uniform").policy == {"name": "uniform", "interval": 5}


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("imagess=3", "the words has no key 'imagess'; did you mean 'images'? known: entries, files, flip, images"),
        (
            "inner.sise=3",
            "the words has no key 'inner.sise'; did you mean 'inner.size'? known: inner.size, inner.widths",
        ),
        ("other.sise=3", "did you mean 'other.size'?"),
        ("entries=[{}, {sise: 1}]", "the words has no key 'entries[1].sise'; did you mean 'entries[1].size'?"),
        ("files.a.sise=3", "did you mean 'files.a.size'?"),
        ("zzz=3", "the words has no key 'zzz'; known: entries"),
    ],
)
def test_an_unknown_key_is_named_with_its_nearest(word, sentence):
    with pytest.raises(InputError) as caught:
        parse(word)
    assert sentence in str(caught.value)


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("images=many", "the words: images must be an integer, not 'many'"),
        ("images=1.5", "the words: images must be an integer, not 1.5"),
        ("images=", "the words: images must be an integer, not None"),
        ("images.size=3", "the words: images must be an integer, not {'size': 3}"),
        ("rate=fast", "the words: rate must be a number, not 'fast'"),
        ("flip=maybe", "the words: flip must be true or false, not 'maybe'"),
        ("flip=2", "the words: flip must be true or false, not 2"),
        ("images=9223372036854775808", "the words: images must be less than 2^63, not 9223372036854775808"),
        ("labels=[1,-9223372036854775808]", "the words: labels must be less than 2^63, not [1, -9223372036854775808]"),
        ("name=[1]", "the words: name must be text, not [1]"),
        ("limit=x", "the words: limit must be an integer or null, not 'x'"),
        ("inner=3", "the words: inner must be a mapping of keys to values, not 3"),
        ("inner.size=x", "the words: inner.size must be an integer, not 'x'"),
        ("inner.widths=[1,x]", "the words: inner.widths must be a list of numbers, not [1, 'x']"),
        ("inner.widths=1", "the words: inner.widths must be a list of numbers, not 1"),
        ("inner.widths={}", "the words: inner.widths must be a list of numbers, not {}"),
        ("inner.widths=[1,[2]]", "the words: inner.widths must be a list of numbers, not [1, [2]]"),
        ("inner.widths=[1,{}]", "the words: inner.widths must be a list of numbers, not [1, {}]"),
        ("inner=[]", "the words: inner must be a mapping of keys to values, not []"),
        ("other=[1]", "the words: other must be a mapping of keys to values or null, not [1]"),
        ("entries=[{size: x}]", "the words: entries[0].size must be an integer, not 'x'"),
        ("files.a.size=x", "the words: files.a.size must be an integer, not 'x'"),
        ("files=1", "the words: files must be a mapping of keys to values, not 1"),
        ("entries=1", "the words: entries must be a list of mappings, not 1"),
        ("policy=null", "the words: policy must be a name, or a mapping of keys to values, not None"),
        (
            "policy=[a,b]",
            "the words: policy must be a name, or a mapping of keys to values, not ['a', 'b']; of several the names: "
            "policy.name=[…]",
        ),
        ("size=1.5", "the words: size must be an integer or text, not 1.5"),
        ("labels=abc", "the words: labels must be a list of integers or null, not 'abc'"),
    ],
)
def test_a_value_of_the_wrong_type_is_named_with_the_right_one(word, sentence):
    with pytest.raises(InputError) as caught:
        parse(word)
    assert str(caught.value) == sentence


@pytest.mark.parametrize("value", ["${x}", "${x:y}", 10**400])
def test_what_shows_only_when_all_is_put_together_is_named_too(value):
    """References of OmegaConf's that lead nowhere, as a checkpoint's metadata may hold them, and numbers too large."""
    for layer, name in (({"rate": value}, "rate"), ({"inner": {"widths": [1, value]}}, "inner.widths")):
        with pytest.raises(InputError, match=rf"^a\.yaml: {name} must be ") as caught:
            configs.parse(Outer, layer, {"images": 3}, where=["a.yaml", "the command line"])
        assert "\n" not in str(caught.value)


def test_each_layer_is_named_by_its_own_place():
    with pytest.raises(InputError, match=r"^a\.yaml: images must be"):
        configs.parse(Outer, {"images": "x"}, {"images": 3}, where=["a.yaml", "the command line"])
    with pytest.raises(InputError, match=r"^the command line: images must be"):
        configs.parse(Outer, {"images": 3}, {"images": "x"}, where=["a.yaml", "the command line"])


def test_missing_values_are_named():
    with pytest.raises(InputError, match=r"^a\.yaml lacks inner, path$"):
        configs.parse(Required, {"flip": True}, where="a.yaml")
    assert parse("path=x", "inner.size=2", schema=Required) == Required("x", Inner(2))


def test_what_a_dataclass_refuses_is_said_in_its_words():
    with pytest.raises(InputError, match=r"^size must be at least 0, not -1$"):
        parse("inner.size=-1")


# --- words


@pytest.mark.parametrize("word", ["images", "", "=3"])
def test_a_word_without_key_or_equals_is_refused(word):
    with pytest.raises(InputError, match="is not of the form key=value"):
        configs.parse_words([word])


@pytest.mark.parametrize("word", ["name=[1,", "name={a", "name='a"])
def test_a_value_that_is_no_yaml_is_refused(word):
    with pytest.raises(InputError, match=r"the value in .* is not readable YAML"):
        configs.parse_words([word])


@pytest.mark.parametrize(
    "text",
    ["a cat #3 in the rain", "a portrait: oil", "12:30", "010", "1e3", "[1, 2", "{a", "true", "- a", "'tis", " a "],
)
@pytest.mark.parametrize("key", ["name", "prompt"])
def test_where_the_schema_wants_text_it_is_taken_as_it_stands(key, text):
    assert configs.parse_words([f"{key}={text}"], Outer) == {key: text}
    assert getattr(configs.parse(Outer, {key: text}, where="here"), key) == text


@pytest.mark.parametrize(("written", "meant"), [("null", None), ("", None), ("'a b'", "a b"), ('"null"', "null")])
def test_null_nothing_and_quotes_mean_the_same_for_text_as_for_all(written, meant):
    assert configs.parse_words([f"prompt={written}"], Outer) == configs.parse_words([f"prompt={written}"])
    assert configs.parse_words([f"prompt={written}"], Outer) == {"prompt": meant}


@pytest.mark.parametrize("key", ["one.path", "one.title", "several.a.path"])
def test_text_is_found_at_any_depth(key):
    at = configs.parse_words([f"{key}=010"], Naming)
    for name in key.split("."):
        at = at[name]
    assert at == "010"


def test_what_is_no_text_stays_yaml():
    words = ["images=010", "size=12", "policy=[a, b]", "limit=3", "unknown.key=2", "name.below=2"]
    assert configs.parse_words(words, Outer) == configs.parse_words(words)


@pytest.mark.parametrize("schema", [None, Outer])
@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("name=${foo}", r"refers to something by \$\{...\}; give the value itself"),
        ("prompt=a ${oc.env:HOME}", r"refers to something by \$\{...\}; give the value itself"),
        ("images=???", "gives no value"),
        ("name=???", "gives no value"),
        ("name='???'", "gives no value"),
    ],
)
def test_notations_that_are_no_values_are_refused(word, sentence, schema):
    with pytest.raises(InputError, match=sentence):
        configs.parse_words([word], schema)


@pytest.mark.parametrize("words", [["grid.policy=[x]", "grid.policy.interval=2"], ["a.b=2", "a=[1]"]])
def test_words_that_contradict_each_other_are_named(words):
    with pytest.raises(InputError, match=f"^'{re.escape(words[1])}' contradicts an earlier word: a list has no keys"):
        configs.parse_words(words)


def test_words_nest_by_their_dots():
    assert configs.parse_words(["a.b=1", "a.c=[2, x]", "d=true"]) == {"a": {"b": 1, "c": [2, "x"]}, "d": True}


@pytest.mark.parametrize("words", [["policy=adaptive", "policy.bound=1"], ["policy.bound=1", "policy=adaptive"]])
def test_a_name_beside_settings_is_their_name(words):
    assert configs.parse_words(words) == {"policy": {"name": "adaptive", "bound": 1}}


# --- files


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[1, 2]", "must hold a mapping of keys to values"),
        (b"5", "is not readable YAML"),
        (b"a: 1\nb", "is not readable YAML"),
        (b"a: [1", "is not readable YAML"),
        (b"a: 1\na: 2", "is not readable YAML: .*duplicate"),
        (b"a: ${nowhere}", "is not readable YAML: .*nowhere"),
        (b"a: \xff\xfe", "is not readable YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "is not readable YAML"),
    ],
)
def test_a_file_that_is_no_yaml_mapping_is_refused_in_one_line(tmp_path, content, sentence):
    (tmp_path / "a.yaml").write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        configs.read(tmp_path / "a.yaml")
    assert str(tmp_path / "a.yaml") in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no configuration file"):
        configs.read(tmp_path / "a.yaml")
    with pytest.raises(InputError, match=r"is not readable YAML: .*directory"):
        configs.read(tmp_path)


def test_an_empty_file_is_an_empty_mapping(tmp_path):
    (tmp_path / "a.yaml").write_text("# nothing yet\n")
    assert configs.read(tmp_path / "a.yaml") == {}


def test_a_configuration_is_found_by_name_path_and_from_anywhere(tmp_path, monkeypatch):
    expected = configs.FOLDER / "models" / "mnist32.yaml"
    monkeypatch.chdir(tmp_path)
    assert configs.find("mnist32", "models") == expected
    assert configs.find(expected) == expected
    assert configs.find("configs/models/mnist32.yaml") == expected
    own = tmp_path / "mine.yaml"
    own.write_text("")
    assert configs.find("mine.yaml").resolve() == own


def test_an_unknown_name_is_answered_with_the_known_ones():
    with pytest.raises(
        InputError, match=r"no configuration 'mnist' in configs.models; did you mean 'mnist32'\? known: .*cifar10"
    ):
        configs.find("mnist", "models")


SCHEMAS = {
    ".": SampleConfig,
    "benchmarks": BenchmarkConfig,
    "models": ModelConfig,
    "sweeps": SweepConfig,
    "tables": PaperTable,
    "train": TrainConfig,
}
FILES = sorted(configs.FOLDER.rglob("*.yaml"))


@pytest.mark.parametrize("path", FILES, ids=[str(path.relative_to(configs.FOLDER)) for path in FILES])
def test_every_configuration_of_the_project_parses(path):
    schema = SCHEMAS[str(path.parent.relative_to(configs.FOLDER))]
    parsed = configs.parse(schema, configs.read(path), where=str(path))
    assert {item.name for item in fields(parsed)} >= configs.read(path).keys()


NAMING = [path for path in FILES if "model" in configs.read(path)]


@pytest.mark.parametrize("path", NAMING, ids=[str(path.relative_to(configs.FOLDER)) for path in NAMING])
def test_every_configuration_names_models_that_there_are(path):
    for model in models_in(configs.read(path)):
        assert configs.find(model, "models").exists()


def models_in(content: Any) -> list[str]:
    """Whatever a configuration calls `model`, at any depth."""
    if isinstance(content, list):
        return [model for item in content for model in models_in(item)]
    if not isinstance(content, dict):
        return []
    named = [content["model"]] if isinstance(content.get("model"), str) else []
    return named + [model for value in content.values() for model in models_in(value)]


# --- names


def test_nearest_names_a_close_word_only_where_there_is_one():
    assert configs.nearest("cifar1", ["cifar10", "lsun"]) == "did you mean 'cifar10'? known: cifar10, lsun"
    assert configs.nearest("xyz", ["cifar10", "lsun"]) == "known: cifar10, lsun"
    assert configs.nearest("xyz", []) == "known: none"


def test_one_of_and_check_keys_name_what_there_is():
    configs.one_of("a", ["a", "b"], "the letter")
    with pytest.raises(InputError, match="the letter 'c' does not exist; known: a, b"):
        configs.one_of("c", ["a", "b"], "the letter")
    configs.check_keys(["a"], ["a", "b"], "the policy")
    with pytest.raises(
        InputError, match=r"the policy has no key 'intervall'; did you mean 'interval'\? known: interval"
    ):
        configs.check_keys(["intervall"], ["interval"], "the policy")


def test_the_home_folder_is_found_where_shells_do_not_expand_it(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert configs.parse_words(["out=~/a", "b.c=~/d", "e=a~/f"]) == {
        "out": "/home/someone/a", "b": {"c": "/home/someone/d"}, "e": "a~/f",
    }  # fmt: skip
