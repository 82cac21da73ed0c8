"""A sweep's folder, read: the rows that have a result, and what became of the others."""

from __future__ import annotations

from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from experiments.data import holds_shards, image_paths, sample_folder
from experiments.rows.measures import measured
from experiments.rows.results import Result, load_result, merged
from experiments.runs.samples import open_samples
from experiments.sweeps.sweep_plan import Point, load_sweep_plan


class Finished(NamedTuple):
    """A row of the grid that has a result."""

    point: Point
    result: Result
    figures: dict[str, float]


class SweepFolder:
    """The folder of a sweep, finished or not. Raises InputError where it holds no sweep, or a damaged result."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.plan = folder, load_sweep_plan(folder)
        keys = sorted({key for point in self.plan.points for key in (point.key, point.uncached) if key})
        paths = {key: folder / "results" / f"{key}.json" for key in keys}
        self.results = {key: load_result(path) for key, path in paths.items() if path.exists()}

    @cached_property
    def finished(self) -> list[Finished]:
        """The rows of the grid that have figures, in its order."""
        made = []
        for point in self.plan.points:
            result = self.results.get(point.key)
            if result and not result.error:
                made.append(Finished(point, result, measured(result, self.results.get(point.uncached))))
        return made

    @cached_property
    def uncached(self) -> list[Finished]:
        """What the finished rows are compared with, once each; where they lie but for policy and forecaster."""
        first = {row.point.uncached: row.point for row in reversed(self.finished)}
        made = []
        for point in reversed(first.values()):
            at = {axis: "" if _is_strategy(axis) else value for axis, value in point.at.items()}
            marked = next(filter(_is_strategy, at), next(iter(at)))
            at[marked] = f"{at[marked]} uncached".strip()
            result = self.results[point.uncached]
            name = " ".join(filter(None, ["uncached", *(value for value in at.values() if "uncached" not in value)]))
            made.append(Finished(Point(name, at, point.uncached), result, measured(result, None)))
        return made

    @cached_property
    def failures(self) -> dict[str, str]:
        """The sentences of the rows that failed, by name."""
        stored = [(point, self.results.get(point.key)) for point in self.plan.points]
        sentences = {point.name: point.error or (result and result.error) for point, result in stored}
        return {name: sentence for name, sentence in sentences.items() if sentence}

    @property
    def rows(self) -> list[Finished]:
        """All that have figures, the uncached ones first."""
        return [*self.uncached, *self.finished]

    @property
    def counts(self) -> dict[str, int]:
        finished, failed = len(self.finished), len(self.failures)
        waiting = len(self.plan.points) - finished - failed
        return {"finished": finished, "failed": failed, "not run yet": waiting, "left out": len(self.plan.left_out)}

    @property
    def versions(self) -> dict[str, str]:
        """What the rows were made with; where they differ, all that occurs."""
        return merged(row.result.environment | _checkpoint(row.result) for row in self.rows)

    def first_images(self, key: str, count: int) -> list[Path] | list[Tensor]:
        """The first images that a row left, in the order of their seeds; none where they were removed."""
        samples = self.folder / "samples" / key
        if not samples.exists():
            return []
        samples = sample_folder(samples)
        if holds_shards(samples):
            images = open_samples(samples)
            return list(images.batch(range(min(count, len(images)))))
        return image_paths(samples)[:count]


def _checkpoint(result: Result) -> dict[str, str]:
    return {"checkpoint": result.checkpoint["source"], "sha256": result.checkpoint["sha256"][:12]}


def _is_strategy(axis: str) -> bool:
    return axis.partition(".")[0] in ("policy", "forecaster")
