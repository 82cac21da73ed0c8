"""Rows: what tables and sweeps consist of. Each is one strategy on one sampler; its result is one JSON file, named
after everything the result depends on, so that what is finished is never run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from caching import NoCache, PlanFile
from configs import InputError
from experiments.digest import file_digest, json_digest
from experiments.evaluation.sets import open_sets
from experiments.grid import classes, default_forecaster, folder_name, strategies
from experiments.model import default_checkpoint, model_config
from experiments.plugins import code_of
from experiments.rows.judging import DISTANCES, Judges
from experiments.rows.pricing import costs_of, only_strategy
from experiments.rows.results import Result, as_text, load_result
from experiments.runs.run import SampleConfig, run, sampler_of
from experiments.runs.summary import Summary, count_calls
from experiments.runs.world import World, join
from models import reading
from models.download import fetch_parts, together
from models.files import write_text

# Where and how a run leaves its files, and how it is started: no result depends on them.
NO_RESULT = ("out", "storage", "device", "compare")


@dataclass(frozen=True)
class Row:
    """One way to sample: a name for people, and a configuration of one strategy, without a comparison."""

    name: str
    config: SampleConfig

    def __post_init__(self) -> None:
        object.__setattr__(self, "config", resolved(self.config))

    @property
    def uncached(self) -> Row:
        """The row this one is compared with: the same seeds under the same sampler, every call a full pass."""
        config = replace(self.config, policy={"name": "none"}, guidance=self.config.guidance.everywhere)
        return Row("uncached", config)

    @property
    def is_uncached(self) -> bool:
        return self.config == self.uncached.config


def resolved(config: SampleConfig) -> SampleConfig:
    """The configuration with everything said that it leaves open. Raises InputError where it means no strategy, or
    more than one."""
    sampler = sampler_of(config)
    chosen = strategies(config.policy, config.forecaster, sampler)
    if len(chosen) != 1:
        raise InputError(f"a row is one strategy, but this configuration means {len(chosen)}; give single values")
    forecaster = config.forecaster
    if type(chosen[0].policy) is NoCache:
        forecaster = {"name": "reuse"}  # nothing is forecast
    elif isinstance(chosen[0].policy, PlanFile):
        forecaster = {"name": "auto"}  # a plan brings its own
    elif forecaster["name"] == "auto":
        forecaster = default_forecaster(chosen[0].policy, sampler)
    return replace(config, forecaster=dict(forecaster), compare=False, out=None)


def identity(row: Row) -> dict[str, Any]:
    """All that the result of a row depends on, and nothing else."""
    settings = {name: value for name, value in asdict(row.config).items() if name not in NO_RESULT}
    model = asdict(model_config(settings.pop("model")))
    del model["checkpoints"]
    if settings["prompts"] is not None:
        settings["prompts"] = file_digest(settings["prompts"])
    if settings["negative_prompt"] is None:
        del settings["negative_prompt"]  # results from before there was one keep their names
    strategy = only_strategy(row.config)
    if type(strategy.policy) is PlanFile:  # which says what it says wherever it lies
        settings["policy"] = {"name": "plan", "file": file_digest(strategy.policy.file)}
    own = code_of(*classes([strategy]))
    return {**settings, **own, "model": model, "checkpoint": checkpoint_digest(row.config)}


def key(row: Row) -> str:
    """The name of a row's result. Raises InputError where its checkpoint is missing and cannot be fetched."""
    return json_digest(identity(row))


def checkpoint_digest(config: SampleConfig) -> str:
    """sha256 of the file that holds the weights, or of the files together, as Parts.sha256; "random" of random ones."""
    name = config.checkpoint or default_checkpoint(config.model)
    if name == "random":
        return name
    files = dict.fromkeys(reading.weights_in(path, part) for part, path in fetch_parts(name).items())
    return together([file_digest(file) for file in files])


def execute(
    rows: Sequence[Row],
    folder: Path,
    samples: Path | None = None,
    judges: Judges | None = None,
    world: World | None = None,
) -> list[Result]:
    """Runs the rows that have no result yet -> the results of all, in the order of `rows`.

    folder: takes results/<key>.json. samples: takes the images, in a folder per row; None is `folder`/samples.
    judges: what measures sets of images against real ones; None measures closeness alone. Finished rows are measured
      again where they were measured against something else, or nothing came of it, and so are the ones they are
      compared with; those whose images are not all there any more stay as they are, with a note.
    world: the processes that share the work, as for experiments.runs.run.run.

    A row that fails is recorded with its sentence and tried again by the next call; the others go on. Each row's
    uncached counterpart is run as well, once, whether it is among `rows` or not.
    """
    world = world or join()
    executor = _Executor(Path(folder), Path(samples or Path(folder) / "samples"), judges or Judges(), world)
    results = []
    with tqdm(rows, unit="row", disable=not world.is_first) as bar:
        for row in bar:
            bar.set_description(row.name)
            results.append(executor.result(row))
    return results


def find_result(row: Row, folder: Path) -> Result | None:
    """The finished result of a row; None where there is none, or its checkpoint is missing."""
    try:
        path = Path(folder) / "results" / f"{key(row)}.json"
    except InputError:
        return None
    return replace(load_result(path), name=row.name) if path.exists() else None


def images_in(samples: Path, row: Row, name: str, count: int) -> Tensor | None:
    """The first images (N, C, H, W) uint8 of the row with the key `name`; None where they are not on disk."""
    folder = image_folder(samples, row, name)
    if not folder.is_dir():
        return None
    (images,) = open_sets(folder)
    return images.images.batch(range(min(count, len(images))))


def image_folder(samples: Path, row: Row, name: str) -> Path:
    """Where the images of a row are."""
    return samples / name / folder_name(only_strategy(row.config).name)


class _Executor:
    """Runs rows into a folder, and knows what failed already. Every process of the world has one; the first decides."""

    def __init__(self, folder: Path, samples: Path, judges: Judges, world: World) -> None:
        self.folder, self.samples, self.judges, self.world = folder, samples, judges, world
        self.done: dict[str, Result] = {}  # by key; also those that failed, which are not tried again
        self.without_checkpoint: dict[tuple[str, str | None], str] = {}

    def result(self, row: Row) -> Result:
        """The result of a row: read where it is finished, else made."""
        name, found = self.world.first(lambda: self._look_up(row))
        if found is None:
            found = self._attempt(row, name)
            self.world.first(lambda: self._keep(found))
        return replace(found, name=row.name)

    def _look_up(self, row: Row) -> tuple[str, Result | None]:
        """The row's key, and its result where nothing is left to be run."""
        try:
            self._find_checkpoint(row.config)
            name = key(row)
        except InputError as error:
            return "", _failed(row, "", str(error))
        if name in self.done:
            return name, self.done[name]
        path = self._path(name)
        stored = load_result(path) if path.exists() else None
        if stored is None or stored.error:
            return name, None
        stored = self._judged_again(stored, row)
        self._keep(stored)
        if self.judges.identity and stored.uncached and stored.uncached not in self.done:
            self._look_up(row.uncached)  # which no other row may ask for, now that nothing is run
        return name, stored

    def _find_checkpoint(self, config: SampleConfig) -> None:
        """Raises InputError where it is missing: one download is tried, not one for every row."""
        where = (config.model, config.checkpoint)
        if where in self.without_checkpoint:
            raise InputError(self.without_checkpoint[where])
        try:
            checkpoint_digest(config)
        except InputError as error:
            self.without_checkpoint[where] = str(error)
            raise

    def _keep(self, result: Result) -> None:
        """Writes a result that is new or has changed."""
        path = self._path(result.key)
        text = as_text(result)
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
        self.done[result.key] = result

    def _attempt(self, row: Row, name: str) -> Result:
        try:
            return self._make(row, name)
        except OSError:  # a full disk: no other row would fare better
            raise
        except InputError as error:
            return _failed(row, name, str(error))
        except Exception as error:  # out of memory, an operation that a device lacks: the sweep goes on
            return _failed(row, name, f"{type(error).__name__}: {error}")

    def _make(self, row: Row, name: str) -> Result:
        """Samples and measures. Where that was broken off before, `run` goes on with what it finds."""
        uncached = None if row.is_uncached else self.result(row.uncached)
        if uncached and uncached.error:
            raise InputError(f"its uncached row failed: {uncached.error}")
        summary = run(replace(row.config, out=str(self.samples / name)), self.world)
        made = _result(row, name, uncached.key if uncached else "", summary)
        return made if made.random_weights else self.world.first(lambda: self._judged(made, row))

    def _judged_again(self, stored: Result, row: Row) -> Result:
        """A finished row's result, measured against what is asked for now. It stays as it is where there is nothing to
        measure; with a note where some of its images are gone or damaged: fewer images are another result."""
        is_measured = stored.random_weights or self.judges.have_measured(stored.judged, stored.metrics)
        if is_measured or not image_folder(self.samples, row, stored.key).is_dir():
            return stored
        try:
            return self._judged(stored, row)
        except InputError as error:
            notes = [*stored.notes, f"not measured again: {' '.join(str(error).split())}"]
            return replace(stored, notes=list(dict.fromkeys(notes)))

    def _judged(self, result: Result, row: Row) -> Result:
        """The result with what its images are worth. Raises InputError where they are not all there and sound."""
        images, uncached, notes = self._whole_set(row, result.key), None, []
        if result.uncached:
            try:
                uncached = self._whole_set(row.uncached, result.uncached)
            except InputError as error:
                notes = [] if "identical" in result.metrics else [f"no closeness to the uncached images: {error}"]
        judged = self.judges.measure(images, uncached, row.config.prompts)
        notes += judged.missing
        if result.judged and not judged.settings:  # what was measured against something else stays as it is
            return replace(result, notes=notes)
        kept = {name: value for name, value in result.metrics.items() if name not in {*DISTANCES, "clip_score"}}
        return replace(
            result,
            metrics=kept | judged.metrics,
            judged=self.judges.identity,
            settings=judged.settings,
            notes=notes,
        )

    def _whole_set(self, row: Row, name: str) -> Path:
        """The folder with a row's images. Raises InputError where it does not hold exactly these."""
        folder = image_folder(self.samples, row, name)
        counts = [len(each) for each in open_sets(folder)]
        if counts != [row.config.num_images]:
            raise InputError(f"{folder} holds {sum(counts)} images, and the row has {row.config.num_images}")
        return folder

    def _path(self, name: str) -> Path:
        return self.folder / "results" / f"{name}.json"


def _result(row: Row, name: str, uncached: str, summary: Summary) -> Result:
    """What a run says of its row, but for its images."""
    (made,) = summary.rows
    return Result(
        name=row.name,
        key=name,
        config={key: value for key, value in summary.config.items() if key not in NO_RESULT},  # batch_size=auto settled
        uncached=uncached,
        checkpoint=summary.checkpoint,
        random_weights=summary.random_weights,
        seeds=[row.config.seed, row.config.seed + row.config.num_images - 1],
        calls=count_calls(made.traces),
        plan=list(made.traces[0]) if len(made.traces) == 1 else None,
        environment=dict(summary.environment),
        metrics={
            "macs": made.macs,
            "macs_attention": costs_of(row.config).full.total / made.theoretical_speedup,
            "theoretical_speedup": made.theoretical_speedup,
            "seconds": made.seconds,
            "images_per_second": made.images_per_second,
        },
    )


def _failed(row: Row, name: str, sentence: str) -> Result:
    settings = {key: value for key, value in asdict(row.config).items() if key not in NO_RESULT}
    return Result(row.name, name, settings, error=" ".join(sentence.split()))
