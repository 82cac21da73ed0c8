"""The summary and the grid of a run, from what is on disk alone: a run that was broken off and resumed has the same
ones as any other, but for the times."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

from caching import NULL, Macs, PassCosts, Plan
from experiments.metrics import Closeness
from experiments.runs.blocks import Part
from experiments.runs.comparison import COLUMNS, save_comparison
from experiments.runs.making import Job
from experiments.runs.sampling import Run, shared
from experiments.runs.summary import PolicyRow, Summary
from models import UNet
from models.files import write_text
from samplers import GuidancePlan

Count = Callable[[Macs], int]


@dataclass
class Gathered:
    """What one strategy made of all blocks."""

    seconds: list[float] = field(default_factory=list)  # of each block
    decoding: list[float] = field(default_factory=list)
    traces: list[Plan] = field(default_factory=list)  # of each image
    uncond_traces: list[Plan] = field(default_factory=list)
    guidance: GuidancePlan = ()
    psnr: list[float] = field(default_factory=list)
    ssim: list[float] = field(default_factory=list)
    store_bytes: int = 0  # at most, of a block
    _known: dict[Plan, Plan] = field(default_factory=dict)

    def add(self, part: Part, places: Sequence[int]) -> None:
        """places: of the wanted images among those that the block stores."""
        self.seconds.append(part.seconds)
        self.decoding.append(part.decoding)
        self.guidance = part.guidance
        self.store_bytes = max(self.store_bytes, part.store_bytes)
        for mine, theirs in ((self.traces, part.traces), (self.uncond_traces, part.uncond_traces)):
            if theirs:
                plans = (theirs[0] if len(theirs) == 1 else theirs[place] for place in places)
                mine += [self._known.setdefault(plan, plan) for plan in plans]  # equal ones are kept once
        if part.psnr:
            self.psnr += [part.psnr[place] for place in places]
            self.ssim += [part.ssim[place] for place in places]


def finish(job: Job, seeds: range, settings: dict[str, Any], paper: Count) -> Summary:
    """Writes grid.png and summary.json -> the summary. settings: the configuration, as it will stand there.
    paper: MACs of a pass, as the paper counts them for this model."""
    shown = seeds[:COLUMNS]
    save_comparison([(run.name, _images(job, run.name, shown)) for run in job.runs], job.compare,
                    job.folder.path / "grid.png")  # fmt: skip
    summary = summarise(job, seeds, settings, paper)
    text = json.dumps(summary.to_json(), indent=2) + "\n"
    write_text(job.folder.path / "summary.json", text)
    return summary


def summarise(job: Job, seeds: range, settings: dict[str, Any], paper: Count) -> Summary:
    """Lays costs, times and distances of the strategies beside each other."""
    gathered = {run.name: Gathered() for run in job.runs}
    environments: dict[str, dict[Any, None]] = {}
    for _, record in job.folder.records(seeds):
        places = [place for place, seed in enumerate(record.seeds) if seed in seeds]
        for name, of_strategy in gathered.items():
            of_strategy.add(record.parts[name], places)
        for key, value in record.environment.items():
            environments.setdefault(key, {})[value] = None
    network = job.pipeline.unet
    costs = job.pipeline.costs()
    uncached = gathered[job.runs[0].name] if job.compare else None
    return Summary(
        config=settings,
        out=str(job.folder.path),
        checkpoint=checkpoint_record(network),
        timesteps=job.sampler.eval_timesteps,
        steps_asked=job.sampler.config.steps,
        steps_made=len(job.sampler.table),
        conditions=[job.pipeline.describe(seed) for seed in seeds],
        environment={key: _merged(list(values)) for key, values in environments.items()},
        random_weights=network.provenance.source == "random",
        rows=[_row(run, gathered[run.name], uncached, costs, job, paper) for run in job.runs],
    )


def _row(run: Run, made: Gathered, uncached: Gathered | None, costs: PassCosts, job: Job, paper: Count) -> PolicyRow:
    close = Closeness(tuple(made.psnr), tuple(made.ssim)).summary() if made.psnr else {}
    batch_seconds = [sum(times) for times in zip(made.seconds, made.decoding, strict=True)]
    return PolicyRow(
        name=run.name,
        traces=shared(made.traces),
        uncond_traces=shared(made.uncond_traces),
        guidance=made.guidance,
        macs=average(costs, made, paper),
        theoretical_speedup=_speedup(costs, made),
        split_speedup=_speedup(costs.split, made) if run.splits and _has_partial_passes(made) else None,
        seconds=sum(made.seconds),
        store_bytes=made.store_bytes,
        images_per_second=job.folder.batch_size / median(batch_seconds),
        measured_speedup=median(uncached.seconds) / median(made.seconds) if uncached else None,
        **close,
    )


def _speedup(costs: PassCosts, made: Gathered) -> float:
    """Over full passes at every call, in MACs with attention products."""
    return costs.full.total / average(costs, made, lambda macs: macs.total)


def _has_partial_passes(made: Gathered) -> bool:
    return any(depth not in (None, NULL) for trace in {*made.traces, *made.uncond_traces} for depth in trace)


def average(costs: PassCosts, made: Gathered, count: Count) -> float:
    """MACs per image and network call, averaged over the calls that guidance at every evaluation would make: those it
    leaves out cost nothing."""
    spent = sum(_mean_spent(costs, traces, count) for traces in (made.traces, made.uncond_traces))
    return spent / (len(made.traces[0]) * (2 if made.uncond_traces else 1))


def _mean_spent(costs: PassCosts, traces: Sequence[Plan], count: Count) -> float:
    """MACs of a whole trajectory, averaged over the images."""
    counts = Counter(trace for trace in traces if trace)
    spent = sum(times * len(trace) * costs.average(trace, count) for trace, times in counts.items())
    return spent / max(1, len(traces))


def _images(job: Job, name: str, seeds: range) -> torch.Tensor:
    parts = [job.folder.read(name, block, [s for s in block if s in seeds]) for block in job.folder.blocks(seeds)]
    return torch.cat(parts)


def _merged(values: Sequence[Any]) -> Any:
    """One value, or where blocks were made in different places all of them."""
    return values[0] if len(values) == 1 else " and ".join(map(str, values))


def checkpoint_record(network: UNet) -> dict[str, str]:
    provenance = network.provenance
    return {
        "source": provenance.source,
        "layout": provenance.layout,
        "published": provenance.published,
        "sha256": provenance.sha256,
    }
