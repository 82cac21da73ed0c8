"""The summary of a sampling run: as a table for people, as JSON for programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from statistics import mean
from typing import Any

from caching import NULL, Plan, describe, full_evals
from experiments.reports.tables import markdown
from experiments.runs.memory import in_words
from samplers import GuidancePlan


@dataclass(frozen=True)
class PolicyRow:
    """What one policy did: cost, time, and how far its images moved from the uncached ones."""

    name: str
    traces: list[Plan]  # one per image, or a single one that all images share
    # Per network call and image, counted as the paper does. The average is over the calls that guidance at every
    # evaluation makes: those it leaves out cost nothing.
    macs: float
    theoretical_speedup: float  # over full passes at all of these, in MACs, attention products included
    seconds: float  # in the sampling loop, summed over all batches, whichever process made them
    images_per_second: float  # of one process: sampling loop and decoding, device synchronised, the median batch
    uncond_traces: list[Plan] = field(default_factory=list)  # where guidance makes two calls: of the unconditional one
    guidance: GuidancePlan = ()  # of every evaluation, where some are not guided in full
    split_speedup: float | None = None  # theoretical_speedup where the work on cached features alone is done once
    measured_speedup: float | None = None  # ratio of the median times that a batch spends in the sampling loop
    psnr_mean: float | None = None  # dB
    psnr_worst: float | None = None
    ssim_mean: float | None = None
    ssim_worst: float | None = None
    store_bytes: int = 0  # that the cached features of a batch take
    identical: int | None = None  # images equal to their uncached ones in every bit

    def cells(self) -> list[str]:
        shown = [self.traces, self.uncond_traces] if self.guidance else [self.traces]
        return [
            self.name,
            " + ".join(calls_in_words(count_calls(traces)) for traces in shown),
            f"{self.macs / 1e9:.4g}",
            f"{self.theoretical_speedup:.2f}x" + (f", split {self.split_speedup:.2f}x" if self.split_speedup else ""),
            f"{self.measured_speedup:.2f}x" if self.measured_speedup else "",
            f"{self.seconds:.1f} s",
            f"{self.images_per_second:.3g}",
            self._pair(self.psnr_mean, self.psnr_worst, ".1f") + self._identical(),
            self._pair(self.ssim_mean, self.ssim_worst, ".4f"),
        ]

    def _identical(self) -> str:
        return f", {self.identical} identical" if self.identical and self.psnr_mean is not None else ""

    def _pair(self, mean: float | None, worst: float | None, form: str) -> str:
        if mean is not None and worst is not None:
            return f"{mean:{form}} / {worst:{form}}"
        return "identical" if self.identical else ""


def count_calls(traces: Sequence[Plan]) -> dict[str, float]:
    """Full, partial and null calls, averaged over the images."""
    full, null = mean(len(full_evals(trace)) for trace in traces), mean(trace.count(NULL) for trace in traces)
    return {"full": float(full), "partial": float(mean(map(len, traces)) - full - null), "null": float(null)}


def calls_in_words(calls: Mapping[str, float]) -> str:
    """Full and partial calls, and null steps where there are some: "20 / 80"."""
    kinds = ("full", "partial", "null") if calls["null"] else ("full", "partial")
    return " / ".join(f"{calls[kind]:.1f}".removesuffix(".0") for kind in kinds)


HEADER = [
    "policy",
    "calls full / partial (/ null)",
    "G MACs",
    "theory",
    "measured",
    "time",
    "images/s",
    "PSNR mean / worst",
    "SSIM mean / worst",
]


@dataclass(frozen=True)
class Summary:
    """Everything a sampling run has to say."""

    config: dict[str, Any]
    out: str
    checkpoint: dict[str, str]
    timesteps: tuple[int, ...]  # of every network evaluation
    steps_asked: int
    steps_made: int
    conditions: list[str]  # prompt or class of every image; "" for an unconditional model
    environment: dict[str, str | int]
    random_weights: bool
    rows: list[PolicyRow]

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        config, sampler = self.config, self.config["sampler"]
        published = self.checkpoint["published"]
        lines = [
            f"{config['num_images']} images of {config['model']}, checkpoint {self.checkpoint['source']}"
            + (f" ({published}, md5 as published)" if published else ""),
            f"{sampler['name']}, {sampler['spacing']} spacing, {self._steps()}",
            "{device}, {precision}, {engine} engine, {threads} threads, torch {torch}".format(**self.environment),
            "",
            *markdown([HEADER, *(row.cells() for row in self.rows)]),
            "",
            "G MACs: per network call, counted as in the DeepCache paper. theory: speed-up if time followed MACs "
            "(attention included); split: with what a partial pass makes of the cached feature alone counted once per "
            "refresh, as it ran. time: sampling loop alone, all batches.",
            f"images/s: sampling loop and decoding, without loading and writing, after warm-up; median batch of "
            f"{config['batch_size']}, per process. measured: speed-up of the median batch's sampling loop.",
            "PSNR (dB), SSIM: of each image to the uncached one of its seed; identical where no bit moved, which PSNR "
            "leaves out.",
            *self._store_line(),
            *self._guidance_lines(),
            *self._plan_line(),
            f"images, grid.png and summary.json are in {self.out}",
        ]
        if self.random_weights:
            lines.insert(0, "*** RANDOM WEIGHTS: costs and speed are real, the images mean nothing ***")
        return "\n".join(lines)

    def _steps(self) -> str:
        text = f"{self.steps_made} steps"
        if self.steps_made != self.steps_asked:
            text += f" ({self.steps_asked} asked for; this spacing cannot make fewer)"
        evals, distinct = len(self.timesteps), len(set(self.timesteps))
        if evals != self.steps_made or distinct != evals:
            text += f", {evals} network calls at {distinct} distinct timesteps"
        return text

    def _store_line(self) -> list[str]:
        """How much memory the cached features take."""
        taken = [row.store_bytes for row in self.rows if row.store_bytes]
        if not taken:
            return []
        span = in_words(taken[0]) if len(set(taken)) == 1 else f"{in_words(min(taken))} to {in_words(max(taken))}"
        return [f"store: {span} of cached features for a batch of {self.config['batch_size']}"]

    def _guidance_lines(self) -> list[str]:
        """What the rows with a guidance plan do without; they share it."""
        plan = next((row.guidance for row in self.rows if row.guidance), ())
        if not plan:
            return []
        both, held, off = (plan.count(entry) for entry in ("both", "held", "off"))
        return [
            f"guidance: both halves at {both} of {len(plan)} evaluations, the last difference held at {held}, off at "
            f"{off}. Calls are conditional + unconditional; those left out are in the average of G MACs, at no cost."
        ]

    def _plan_line(self) -> list[str]:
        """The plan itself, where there is one to show; of several, how far they differ."""
        cached = [row for row in self.rows if any(depth is not None for trace in row.traces for depth in trace)]
        if len(cached) != 1:
            return []
        traces = cached[0].traces
        if len(traces) == 1:
            return [f"plan: {describe(traces[0])}"]
        full = [len(full_evals(trace)) for trace in traces]
        return [f"full passes per image: {min(full)} to {max(full)}; every image's plan is in summary.json"]
