"""The tables of the DeepCache paper (Ma et al. 2023) as data: what each row runs, and what is printed for it.

Their files are configs/tables/table1.yaml to table14.yaml.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from omegaconf import MISSING

import configs
from experiments.evaluation.inception import RESIZES
from experiments.runs.run import SampleConfig

# What of ours fills a column. macs: G, averaged over the steps of the section's base setting, as the paper counts;
# theory: the speed-up over that setting if time followed MACs; throughput: images/s; speedup: measured; psnr, ssim: to
# the uncached images of the same seeds, averaged; schedule: which network calls are full passes; the others are
# metrics of sets of images.
COSTS = ("macs", "theory", "schedule")
SAMPLED = ("throughput", "speedup", "psnr", "ssim", "fid", "sfid", "inception_score", "precision", "recall",
           "clip_score")  # fmt: skip


@dataclass(frozen=True)
class Column:
    """One figure of every row, the paper's, ours, or both."""

    name: str = MISSING  # with its unit
    key: str = ""  # the paper's figure, in Entry.paper; "" where it prints none
    metric: str = ""  # ours, of COSTS and SAMPLED; "" where we have none: a setting, say
    run: str = ""  # whose, where rows have several runs; "a - b" is a difference
    digits: int = 2  # of ours

    def __post_init__(self) -> None:
        if self.metric:
            configs.one_of(self.metric, (*COSTS, *SAMPLED), "the metric")


@dataclass(frozen=True)
class Entry:
    """One row as printed."""

    name: str = MISSING
    paper: dict[str, Any] = field(default_factory=dict)  # by the keys of the columns; absent where it prints "-"
    # What changes against the section's base; null: nothing of ours can be run. Of several: `runs`, by name.
    run: dict[str, Any] | None = None
    runs: dict[str, Any] = field(default_factory=dict)
    quoted: bool = False  # figures of other work: never sampled here, at most priced
    note: str = ""

    @property
    def changes(self) -> dict[str, Mapping[str, Any]]:
        """What every run changes against the base; a single run's name is ""."""
        return dict(self.runs) if self.run is None else {"": self.run}


@dataclass(frozen=True)
class Section:
    """Rows of one model on one data set."""

    name: str = MISSING
    base: dict[str, Any] = MISSING  # keys of scripts/sample.py: what the rows have in common
    rows: list[Entry] = field(default_factory=list)

    def config(self, change: Mapping[str, Any]) -> SampleConfig:
        """A run's configuration. Raises InputError where a key or value does not exist."""
        return configs.parse(SampleConfig, self.base, change, where=f"section {self.name!r}")

    @property
    def uncached(self) -> SampleConfig:
        """What speed-ups are over."""
        return self.config({})


@dataclass(frozen=True)
class PaperTable:
    """The contents of one file of configs/tables."""

    title: str = MISSING
    columns: list[Column] = field(default_factory=list)
    sections: list[Section] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    resize: str = "tensorflow"  # of the images for FID: pytorch where the paper's is pytorch-fid's

    def __post_init__(self) -> None:
        configs.one_of(self.resize, RESIZES, "resize")
        for section in self.sections:
            runs = {run for entry in section.rows for run in entry.changes}
            for column in self.columns:
                for run in column.run.split(" - ") if column.metric and runs else ():
                    configs.one_of(run, runs, f"the run of the column {column.name!r}")
        keys = {column.key for column in self.columns}
        for entry in self.entries:
            configs.check_keys(entry.paper, keys, f"the columns of the row {entry.name!r}")

    @property
    def entries(self) -> Iterator[Entry]:
        for section in self.sections:
            yield from section.rows

    @property
    def is_sampled(self) -> bool:
        """Does any column need images or times? Tables of hyper-parameters do not."""
        return any(column.metric in SAMPLED for column in self.columns)


def names() -> list[str]:
    """table1 … table14."""
    files = (configs.FOLDER / "tables").glob("*.yaml")
    return sorted((path.stem for path in files), key=lambda name: (len(name), name))


def load_table(name: str) -> PaperTable:
    """name: of a file in configs/tables, or a path. Raises InputError for one that does not exist or does not fit the
    schema."""
    return configs.parse(PaperTable, configs.read(configs.find(name, "tables")), where=name)


@dataclass(frozen=True)
class PrintedMacs:
    """What the paper prints for one configuration: G MACs, averaged over the steps."""

    table: str
    row: str
    config: SampleConfig
    macs: float


def printed_macs(model: str) -> list[PrintedMacs]:
    """What the tables print about the MACs of a model of configs/models at its full number of steps, once for every
    interval and branch."""
    found: dict[tuple, PrintedMacs] = {}
    for name in names():
        for section in load_table(name).sections:
            if section.base["model"] == model:
                for printed in _printed(name, section):
                    policy = printed.config.policy
                    found.setdefault((name, policy.get("interval"), policy.get("branch")), printed)
    return list(found.values())


def _printed(table: str, section: Section) -> Iterator[PrintedMacs]:
    for entry in section.rows:
        if "macs_G" in entry.paper and entry.run is not None and not entry.quoted:
            config = section.config(entry.run)
            if config.sampler == section.uncached.sampler:
                yield PrintedMacs(table, entry.name, config, entry.paper["macs_G"])
