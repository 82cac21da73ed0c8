"""Measuring one case: every variant built, checked against the first, and timed in turn with the others."""

from __future__ import annotations

import itertools
import platform
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.benchmark import clock
from experiments.benchmark.attainable import peaks
from experiments.benchmark.clock import Timing
from experiments.benchmark.engines import Ours, Unavailable
from experiments.benchmark.peers import DeepCache, Diffusers
from experiments.benchmark.records import Record
from experiments.benchmark.settings import Case
from experiments.benchmark.variants import Variant
from experiments.benchmark.workload import Task, Workload
from experiments.precision import emulation_warning
from experiments.runs.memory import PeakMemory
from models import processor

CLASSES = {"plain": Ours, "fast": Ours, "diffusers": Diffusers, "deepcache": DeepCache}  # of the engines
COMPILED_CALLS = 2  # before a compiled network is as quick as it gets: CUDA graphs are recorded at the second


@dataclass
class Built:
    """One variant with its network, and what its first run showed."""

    variant: Variant
    engine: Any
    calls: dict[Task, Callable[[], Tensor]]
    errors: dict[Task, float] = field(default_factory=dict)  # to the first variant, relative to its largest output
    first_seconds: float = 0.0  # of the first call: compilation, where there is one
    peak_bytes: int | None = None


@torch.inference_mode()
def measure(work: Workload, digest: str) -> list[Record]:
    """The measurements of one case, as records; variants that cannot run here leave one with the reason."""
    case, watch = work.case, clock.pick_clock(work.device, work.case.threads)
    with clock.threads(case.threads):
        imitated = {name: why for name in precisions(case) if (why := emulation_warning(name, work.device))}
        offered = [name for name in precisions(case) if name not in imitated]
        ceilings = [peak for precision in offered for peak in peaks(work.device, precision)]
        for peak in ceilings:
            peak.call()  # the libraries load what no variant's memory is to hold
        built, skipped = build_all(work, imitated)
        passes, trajectories = work.tasks
        calls: dict[Any, Callable[[], object]] = {peak: peak.call for peak in ceilings}
        calls |= _calls(built, passes)
        timings = _time(calls, watch, case.rounds, f"{work}: passes")
        timings |= _time(_calls(built, trajectories), watch, case.sampling_rounds, f"{work}: sampling")

    common = {"case": str(work), "identity": digest, "clock": watch.name, **about(work)}
    rates = {peak: 2 * peak.macs / timings[peak].median for peak in ceilings}
    attainable = {
        precision: max(rate for peak, rate in rates.items() if peak.precision == precision) for precision in offered
    }
    records = [
        common | {"variant": "attainable", "precision": peak.precision, "what": peak.name}
        | _figures(timings[peak], peak.macs, attainable[peak.precision])
        for peak in ceilings
    ]  # fmt: skip
    for one, task in itertools.product(built, [*passes, *trajectories]):
        if task in one.calls:
            records.append(common | _row(work, one, task, timings[one.variant, task], attainable))
    return records + [common | line for line in skipped]


def precisions(case: Case) -> list[str]:
    """Of the case's variants."""
    return list(dict.fromkeys(variant.precision for variant in case.parsed_variants()))


def build_all(work: Workload, imitated: Mapping[str, str]) -> tuple[list[Built], list[Record]]:
    """The variants that can run here, each run once, and records of why others cannot.

    imitated: precisions that the processor has no arithmetic in, with what to say of them: they take many times as long
      as float32, and nobody would sample in them.
    """
    built, skipped = [], []
    reference: dict[Task, Tensor] = {}
    for engine in {variant.engine for variant in work.case.parsed_variants()}:
        with suppress(Unavailable):
            CLASSES[engine].prepare()
    for variant in tqdm(work.case.parsed_variants(), desc=f"{work}: first runs", unit="variant", leave=False):
        try:
            if variant.precision in imitated:
                raise Unavailable(imitated[variant.precision])
            built.append(build(work, variant, reference))
        except Unavailable as reason:
            skipped.append({"variant": str(variant), "skipped": str(reason)})
    return built, skipped


def build(work: Workload, variant: Variant, reference: dict[Task, Tensor]) -> Built:
    """A variant after its first run. reference: outputs of the first variant, which are added where they lack.

    Memory is that of the network with what runs first: a trajectory, where there is one. Of what is compiled it is what
    programs keep and a later run takes, not what compiling did.
    """
    passes, trajectories = work.tasks
    with PeakMemory(work.device) as kept:
        engine = CLASSES[variant.engine](work, variant)
        one = Built(variant, engine, calls_of(engine, [*reversed(trajectories), *passes]))
        first = next(iter(one.calls.values()))
        if variant.compiled:
            one.first_seconds = _seconds(first)
            warm(first, variant)
    with PeakMemory(work.device) as memory:
        seconds = _seconds(first)
    one.first_seconds = one.first_seconds or seconds
    if memory.peak is not None and kept.held is not None:
        one.peak_bytes = kept.held + memory.peak
    for task, call in one.calls.items():
        output = warm(call, variant)
        one.errors[task] = deviation(output, reference.setdefault(task, output))
    return one


def _seconds(call: Callable[[], Tensor]) -> float:
    return clock.WALL.seconds(lambda: call().cpu())  # waits for a GPU


def calls_of(engine: Any, tasks: Iterable[Task]) -> dict[Task, Callable[[], Tensor]]:
    """What computes each of those tasks that the engine has a way to compute."""
    calls = {}
    for task in tasks:
        with suppress(Unavailable):
            calls[task] = engine.call(task)
    return calls


def warm(call: Callable[[], Tensor], variant: Variant) -> Tensor:
    """The output of a computation once it is as quick as it gets."""
    for _ in range(COMPILED_CALLS if variant.compiled else 0):
        call()
    return call()


def deviation(output: Tensor, reference: Tensor) -> float:
    """The largest difference, relative to the largest entry of the reference."""
    scale = float(reference.abs().max())
    return float((output - reference).abs().max()) / scale if scale else 0.0


def about(work: Workload) -> Record:
    """What the figures depend on, besides variant and task."""
    case = work.case
    packages = ("torch", "diffusers", "DeepCache", "transformers")
    return {
        "run": case.run, "model": work.run.model, "checkpoint": case.checkpoint, "input": list(work.shape),
        "batch": work.batch, "rows": work.rows, "steps": len(work.sampler.table), "sampler": work.sampler.config.name,
        "guidance": work.scale, "device": work.device.type, "hardware": processor.name(work.device),
        "threads": case.threads if work.device.type == "cpu" else None,
        "tf32": torch.backends.cudnn.allow_tf32 if work.device.type == "cuda" else None,
        "versions": {"python": platform.python_version(), **_versions(packages)},
    }  # fmt: skip


def _calls(built: Iterable[Built], tasks: Iterable[Task]) -> dict[Any, Callable[[], object]]:
    """Task by task, so that what is compared is timed close together."""
    return {(one.variant, task): one.calls[task] for task in tasks for one in built if task in one.calls}


def _time(calls: dict[Any, Callable[[], object]], watch: clock.Clock, rounds: int, what: str) -> dict[Any, Timing]:
    with tqdm(total=len(calls) * (rounds + 1), desc=what, unit="timing", leave=False) as bar:
        return clock.interleaved(calls, watch, rounds, bar)


def _row(work: Workload, one: Built, task: Task, timing: Timing, attainable: dict[str, float]) -> Record:
    variant = one.variant
    return {
        "variant": str(variant), "engine": variant.engine, "precision": variant.precision,
        "what": task.name, "full": task.full.name if task.branch is not None else None,
        **_figures(timing, work.macs(task, one.engine.splits), attainable[variant.precision]),
        "error": one.errors[task], "peak_bytes": one.peak_bytes, "store_bytes": one.engine.store_bytes,
        "first_seconds": one.first_seconds,
    }  # fmt: skip


def _figures(timing: Timing, macs: int, attainable: float) -> Record:
    """A MAC is two floating-point operations."""
    rate = 2 * macs / timing.median
    return {
        "seconds": timing.median, "spread": timing.spread, "times": list(timing.times), "macs": macs,
        "flops": rate, "attainable_flops": attainable, "share": rate / attainable,
    }  # fmt: skip


def _versions(packages: Iterable[str]) -> dict[str, str]:
    versions = {}
    for name in packages:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions
