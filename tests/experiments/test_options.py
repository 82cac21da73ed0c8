"""experiments/options.py: what --help says of the keys."""

from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

from experiments.options import Option, describe, options
from experiments.planning.search import CalibrateConfig
from experiments.runs.run import SampleConfig


@dataclass
class Base:
    """A docstring, which is nobody's comment."""

    folder: str = MISSING  # where the images are
    size: int | None = None


@dataclass
class Inner:
    steps: int = 5  # how many


@dataclass
class Schema(Base):
    # This one takes
    # two lines.
    inner: Inner = field(default_factory=Inner)
    names: list[str] = field(default_factory=lambda: ["a", "b"])  # in order
    flag: bool = False
    # Above, and
    policy: dict[str, Any] = field(default_factory=lambda: {"name": "none"})  # beside


def test_every_key_has_its_default_and_its_comment():
    assert list(options(Schema)) == [
        Option("folder", "required", "where the images are"),
        Option("size", "null", ""),
        Option("inner.steps", "5", "how many"),
        Option("names", "[a, b]", "in order"),
        Option("flag", "false", ""),
        Option("policy", "{name: none}", "Above, and beside"),
    ]


def test_policies_are_listed_where_there_is_one_to_choose():
    assert "uniform interval=5 branch=0 horizon=null: A full pass every `interval`" in describe(Schema)
    assert "policy=NAME" not in describe(Base)


def test_keys_that_change_nothing_are_not_listed():
    listed = {option.key for option in options(CalibrateConfig)}
    assert {"policy", "budget", "sampler.steps"} <= listed
    assert not listed & set(CalibrateConfig.UNUSED)
    assert "forecaster=NAME" not in describe(CalibrateConfig)


def test_what_no_field_stands_for_is_listed_as_well():
    assert "import=[]" in describe(Base)
    assert "  auto: Where every step adds fresh noise" in describe(SampleConfig)


def test_the_main_job_has_a_word_for_every_key_that_does_not_speak_for_itself():
    silent = {option.key for option in options(SampleConfig) if not option.comment}
    assert silent == {"width", "sampler.steps", "num_images", "device"}
