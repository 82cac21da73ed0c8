"""Making the blocks of a sampling run: every strategy in turn on the same seeds, stored while the next is computed."""

from __future__ import annotations

import platform
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from caching import Plan
from configs import InputError
from experiments.images import to_uint8
from experiments.metrics import Closeness, closeness
from experiments.pipeline import Pipeline
from experiments.runs.blocks import Part, Record, RunFolder, Task
from experiments.runs.samples import Batch
from experiments.runs.sampling import Made, Run, sample_images, warm_up
from experiments.runs.world import Progress, World
from experiments.runs.writing import Background
from models import processor
from samplers import Sampler

# Called with a strategy's name, some seeds, and their images (B, C, H, W) uint8 on the CPU.
Observer = Callable[[str, Sequence[int], Tensor], object]


@dataclass(frozen=True)
class Job:
    """A run that is ready: what samples, and where the images go."""

    pipeline: Pipeline
    sampler: Sampler
    runs: list[Run]  # one per strategy; the first is the uncached one, if they are compared with it
    compare: bool
    folder: RunFolder

    def make(self, tasks: Sequence[Task], world: World, observer: Observer | None) -> None:
        """Makes and stores this process's share of the blocks: every world.size-th.

        Strategies take turns within a block, so that a machine whose speed drifts drifts for all of them alike.
        Raises InputError for images that are not finite; they are not stored, and their block stays unfinished.
        """
        steps = len(tasks) * self.folder.batch_size * len(self.sampler.table) * len(self.runs)
        mine = tasks[world.rank :: world.size]
        with world.progress(steps, "image step") as bar, world.together(while_waiting=bar.report):
            if mine:
                for run in self.runs:
                    warm_up(self.pipeline, run.cached, self.folder.batch_size)
            with Background() as background:
                for task in mine:
                    self._make_block(task, background, bar, observer)

    def show(self, seeds: range, tasks: Sequence[Task], world: World, observer: Observer) -> None:
        """Shows the observer this process's share of those images of `seeds` that are whole and will not be made."""
        made = {task.block[0] for task in tasks}
        blocks = [block for block in self.folder.blocks(seeds) if block[0] not in made]
        with world.together():
            for block in blocks[world.rank :: world.size]:
                wanted = [seed for seed in block if seed in seeds]
                for run in self.runs:
                    observer(run.name, wanted, self.folder.read(run.name, block, wanted))

    def _make_block(self, task: Task, background: Background, bar: Progress, observer: Observer | None) -> None:
        parts: dict[str, Future[Part]] = {}
        reference: Tensor | None = None
        stored = [task.block.index(seed) for seed in task.seeds]
        labels = self.labels(task.seeds)
        for run in self.runs:
            bar.set_description(run.name)
            if self.pipeline.device.type == "cuda" and len(self.runs) > 1:
                background.wait()  # it competes for Python's lock with the launches of kernels that are timed here
            made = sample_images(self.pipeline, self.sampler, run, task.block, bar)
            images = made.images[stored]
            _check_finite(run.name, task.seeds, images)
            batch = Batch(task.seeds, to_uint8(images), labels)
            close = background.submit(closeness, images, reference) if reference is not None else None
            parts[run.name] = background.submit(self._store, task, made, batch, stored, close)
            if observer is not None:
                observer(run.name, batch.seeds, batch.images)
            if self.compare and reference is None:
                reference = images
        background.submit(self._record, task, labels, parts)

    def _store(self, task: Task, made: Made, batch: Batch, stored: list[int], close: Future[Closeness] | None) -> Part:
        return Part(
            seconds=made.trajectory.seconds,
            decoding=made.decoding,
            traces=_of(made.trajectory.traces, stored),
            uncond_traces=_of(made.trajectory.uncond_traces, stored),
            guidance=made.trajectory.guidance,
            psnr=list(close.result().psnr) if close else [],
            ssim=list(close.result().ssim) if close else [],
            files=self.folder.store(made.name, task.block, batch),
            store_bytes=made.store_bytes,
        )

    def _record(self, task: Task, labels: list[int] | None, parts: dict[str, Future[Part]]) -> None:
        done = {name: part.result() for name, part in parts.items()}
        self.folder.finish(task.block, Record(task.seeds, labels, environment(self.pipeline), done))

    def labels(self, seeds: Sequence[int]) -> list[int] | None:
        return None if self.pipeline.num_labels is None else [self.pipeline.label(seed) for seed in seeds]


def environment(pipeline: Pipeline) -> dict[str, Any]:
    """What the times depend on."""
    device = pipeline.device
    return {
        "device": f"{device.type} ({processor.name(device)})",
        "precision": pipeline.config.precision,
        "engine": "compiled " * pipeline.config.compile + pipeline.config.engine,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _check_finite(name: str, seeds: Sequence[int], images: Tensor) -> None:
    """As 8-bit pixels, and in comparisons of those, such images would pass for images."""
    finite = torch.isfinite(images).flatten(1).all(1).tolist()
    if not all(finite):
        bad = [str(seed) for seed, is_finite in zip(seeds, finite, strict=True) if not is_finite]
        listed = ", ".join(bad[:8]) + ", …" * (len(bad) > 8)
        raise InputError(f"{name}: the images of the seeds {listed} are not finite; fp16 overflows where bf16 and fp32 "
                         "do not, and damaged weights do everywhere")  # fmt: skip


def _of(traces: list[Plan], stored: Sequence[int]) -> list[Plan]:
    """The traces of the images that are stored."""
    return traces if len(traces) < 2 else [traces[place] for place in stored]
