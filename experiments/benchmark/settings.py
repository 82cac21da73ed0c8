"""What is measured: the schema of configs/benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import configs
from configs import InputError
from experiments.benchmark.variants import Variant, parse_variant


@dataclass(frozen=True)
class Case:
    """One network at some batch sizes, under several variants that are measured in turn."""

    title: str = ""  # tells cases of one network, size and batch apart
    run: str = "mnist32"  # NAME in configs/: its model, sampler, guidance and branch; or a YAML file
    checkpoint: str = "random"  # times do not depend on weights; or a file, as for scripts/sample.py
    batch_size: Any = 8  # images; of a list each in turn
    resolution: int | None = None  # side of the network's input; null: the one it was trained at
    branches: list[int] = field(default_factory=list)  # of the partial passes; empty: the run's
    variants: list[str] = field(default_factory=lambda: ["plain", "fast", "diffusers"])  # first: the measure
    intervals: list[int] = field(default_factory=list)  # N of whole trajectories at the first branch; 1: uncached
    steps: int | None = None  # of these trajectories; null: the run's
    rounds: int = 7
    sampling_rounds: int = 3
    threads: int = 1  # of a CPU
    device: str = "auto"

    def __post_init__(self) -> None:
        sizes = self.batch_size if isinstance(self.batch_size, list | tuple) else [self.batch_size]
        object.__setattr__(self, "batch_size", tuple(sizes))
        for name in ("batch_size", "intervals", "rounds", "sampling_rounds", "threads", "steps", "resolution"):
            given, may_be_null = getattr(self, name), name in ("steps", "resolution")
            for value in given if isinstance(given, list | tuple) else [given]:
                is_number = isinstance(value, int) and not isinstance(value, bool)  # a batch size may be of any type
                if not ((is_number and value >= 1) or (value is None and may_be_null)):
                    raise InputError(f"{name} must be at least 1, not {value!r}")
        if not self.variants or not self.batch_size:
            raise InputError("a case needs at least one of variants and one batch_size")
        for words in self.variants:
            parse_variant(words)

    def parsed_variants(self) -> list[Variant]:
        return [parse_variant(words) for words in self.variants]

    def by_batch(self) -> Iterator[Case]:
        """One case per batch size."""
        for size in self.batch_size:
            yield replace(self, batch_size=size)


@dataclass(frozen=True)
class BenchmarkConfig(Case):
    """One run of scripts/benchmark.py: the case that the keys describe, or `cases`."""

    cases: list[dict[str, Any]] = field(default_factory=list)  # each: what it does not share with the keys above
    out: str = "outputs/benchmark"  # folder
    name: str = "benchmark"  # of the files there

    def all_cases(self) -> list[Case]:
        """Every case at every batch size. Raises InputError for a case with an unknown key or a bad value."""
        shared = {key: value for key, value in asdict(self).items() if key in CASE_KEYS}
        shared["batch_size"] = list(self.batch_size)
        cases = [
            configs.parse(Case, shared, given, where=["the benchmark", f"case {number}"])
            for number, given in enumerate(self.cases or [{}], start=1)
        ]
        return [single for case in cases for single in case.by_batch()]

    def file(self, suffix: str) -> Path:
        return Path(self.out) / f"{self.name}{suffix}"


CASE_KEYS = {item.name for item in fields(Case)}
