"""Variants in words, cases out of benchmarks."""

import pytest

import configs
from configs import InputError
from experiments.benchmark.settings import BenchmarkConfig, Case
from experiments.benchmark.variants import Variant, parse_variant
from experiments.benchmark.workload import Workload


@pytest.mark.parametrize(
    ("words", "variant"),
    [
        ("plain", Variant("plain")),
        ("plain contiguous", Variant("plain", layout="contiguous")),
        ("fast bf16 compiled", Variant("fast", "bf16", compiled=True)),
        ("diffusers", Variant("diffusers")),
        ("deepcache channels_last fp16", Variant("deepcache", "fp16", layout="channels_last")),
    ],
)
def test_variants_are_an_engine_and_its_settings(words, variant):
    assert parse_variant(words) == variant
    assert parse_variant(str(variant)) == variant


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("fsat", "must begin with an engine; did you mean 'fast'"),
        ("fast fp61", "has the setting 'fp61'; did you mean 'fp16'"),
        ("", "must begin with an engine"),
    ],
)
def test_words_that_mean_nothing_are_refused(words, sentence):
    with pytest.raises(InputError, match=sentence):
        parse_variant(words)


def test_a_case_has_what_it_does_not_say_from_the_benchmark():
    config = BenchmarkConfig(run="cifar10", rounds=3, cases=[{"batch_size": [1, 8]}, {"run": "sd_v1", "rounds": 5}])
    cases = config.all_cases()
    assert [(case.run, case.batch_size, case.rounds) for case in cases] == [
        ("cifar10", (1,), 3),
        ("cifar10", (8,), 3),
        ("sd_v1", (8,), 5),
    ]


def test_without_cases_the_benchmark_is_the_case():
    (case,) = BenchmarkConfig(run="cifar10", batch_size=4, name="mine").all_cases()
    assert case == Case(run="cifar10", batch_size=4)


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ({"batch": 3}, "case 1 has no key 'batch'; did you mean 'batch_size'"),
        ({"rounds": 0}, "rounds must be at least 1, not 0"),
        ({"batch_size": [4, 0]}, "batch_size must be at least 1, not 0"),
        ({"batch_size": "many"}, "batch_size must be at least 1, not 'many'"),
        ({"batch_size": None}, "batch_size must be at least 1, not None"),
        ({"batch_size": [True]}, "batch_size must be at least 1, not True"),
        ({"variants": ["fats"]}, "must begin with an engine"),
        ({"variants": []}, "at least one of variants"),
    ],
)
def test_bad_cases_are_refused(case, sentence):
    with pytest.raises(InputError, match=sentence):
        BenchmarkConfig(cases=[case]).all_cases()


@pytest.mark.parametrize("path", sorted((configs.FOLDER / "benchmarks").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_benchmark_can_be_begun(path):
    config = configs.parse(BenchmarkConfig, configs.read(path), {"device": "cpu"}, where=path.name)
    works = [Workload(case) for case in config.all_cases()]
    names = [str(work) for work in works]
    assert len(set(names)) == len(names)  # else one case's results would replace another's
    assert config.name == path.stem


def test_a_branch_that_is_none_is_refused():
    with pytest.raises(InputError, match="branch 12 does not exist; cifar10 has branches 0"):
        Workload(Case(run="cifar10", branches=[12]))
