"""Timing: which clock, and many computations in turn on a machine whose speed drifts."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import quantiles
from typing import Protocol, TypeVar

import torch
from tqdm import tqdm

Key = TypeVar("Key")
Call = Callable[[], object]

SHORTEST = 0.01  # seconds; quicker computations are repeated until they take so long together


class Clock(Protocol):
    """Tells how long a computation takes."""

    name: str

    def seconds(self, call: Call, repeats: int = 1) -> float:
        """Of one call, averaged over `repeats` in a row."""
        ...


@dataclass(frozen=True)
class HostClock:
    """A clock of the operating system."""

    name: str
    now: Callable[[], float]

    def seconds(self, call: Call, repeats: int = 1) -> float:
        start = self.now()
        for _ in range(repeats):
            call()
        return (self.now() - start) / repeats


# Of one thread: what other processes do to the wall clock on a busy machine does not count.
PROCESS = HostClock("process CPU time", time.process_time)
WALL = HostClock("wall clock", time.perf_counter)


@dataclass(frozen=True)
class EventClock:
    """Events of a GPU: from the moment it has finished all earlier work to the moment it has finished this."""

    device: torch.device
    name: str = "CUDA events"

    def seconds(self, call: Call, repeats: int = 1) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        with torch.cuda.device(self.device):  # events are recorded on the current device's stream
            torch.cuda.synchronize()
            start.record()
            for _ in range(repeats):
                call()
            end.record()
            torch.cuda.synchronize()
        return start.elapsed_time(end) / 1000 / repeats  # milliseconds


def pick_clock(device: torch.device, threads: int) -> Clock:
    """Events on a GPU. On a CPU the process's own time where it has one thread, else the wall clock."""
    if device.type == "cuda":
        return EventClock(device)
    return PROCESS if threads == 1 else WALL


@dataclass(frozen=True)
class Timing:
    """Seconds of one computation, round by round."""

    times: tuple[float, ...]

    @property
    def median(self) -> float:
        return self.quartiles[1]

    @property
    def spread(self) -> float:
        """Between the first and the third quartile."""
        first, _, third = self.quartiles
        return third - first

    @property
    def quartiles(self) -> tuple[float, float, float]:
        if len(self.times) == 1:
            return self.times * 3
        first, second, third = quantiles(self.times, n=4, method="inclusive")
        return first, second, third


def interleaved(calls: Mapping[Key, Call], clock: Clock, rounds: int, bar: tqdm | None = None) -> dict[Key, Timing]:
    """Times every computation once per round, all of them in turn -> their timings.

    In turn: a machine that slows down or speeds up does so for all alike. One round before the first chooses kernels,
    compiles, and says how often a quick computation is to be repeated.
    """
    repeats = {}
    for key, call in calls.items():
        call()  # what happens at the first call alone
        repeats[key] = max(1, math.ceil(SHORTEST / max(clock.seconds(call), 1e-6)))
        _tick(bar)
    times: dict[Key, list[float]] = {key: [] for key in calls}
    for _ in range(rounds):
        for key, call in calls.items():
            times[key].append(clock.seconds(call, repeats[key]))
            _tick(bar)
    return {key: Timing(tuple(values)) for key, values in times.items()}


def _tick(bar: tqdm | None) -> None:
    if bar is not None:
        bar.update()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """CPU threads of PyTorch's operators, while it lasts."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
