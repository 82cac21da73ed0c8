"""Timing: medians and spreads, turns, clocks."""

import time

import torch

from experiments.benchmark import clock
from experiments.benchmark.clock import HostClock, Timing, interleaved, pick_clock


def ticking(steps):
    """A clock that moves on by the next of `steps` whenever it is read a second time."""
    times, now = iter(steps), [0.0]

    def read():
        read.odd = not read.odd
        if not read.odd:
            now[0] += next(times)
        return now[0]

    read.odd = False
    return HostClock("test", read)


def test_the_median_and_the_spread_are_of_the_quartiles():
    timing = Timing((5.0, 1.0, 2.0, 4.0, 3.0))
    assert timing.median == 3
    assert timing.spread == 2
    assert Timing((1.5,)).median == 1.5
    assert Timing((1.5,)).spread == 0


def test_one_slow_round_does_not_move_the_median():
    assert Timing((1.0, 1.0, 1.0, 1.0, 100.0)).median == 1


def test_computations_take_turns():
    calls = []
    timings = interleaved({"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}, ticking([1.0] * 8), 3)
    assert "".join(calls) == "aabb" + "ab" * 3  # once for what happens once, once to see how long it takes
    assert timings["a"].times == (1, 1, 1)


def test_quick_computations_are_repeated_and_divided():
    calls = []
    timings = interleaved({"a": lambda: calls.append(0)}, ticking([0.001, 0.02]), 1)
    assert len(calls) == 2 + 10
    assert timings["a"].median == 0.002


def test_one_thread_is_timed_by_its_own_time_and_several_by_the_wall():
    assert pick_clock(torch.device("cpu"), 1) is clock.PROCESS
    assert pick_clock(torch.device("cpu"), 2) is clock.WALL


def test_sleep_is_no_process_time():
    assert clock.PROCESS.seconds(lambda: time.sleep(0.05)) < 0.04 < clock.WALL.seconds(lambda: time.sleep(0.05))


def test_threads_are_as_before_afterwards():
    before = torch.get_num_threads()
    with clock.threads(before + 1):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before
