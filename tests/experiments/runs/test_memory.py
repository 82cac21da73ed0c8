"""The peak of what a computation takes."""

import pytest
import torch

from experiments.runs.memory import PeakMemory, can_measure, free_bytes, in_words

CPU = torch.device("cpu")
MIB = 2**20


@pytest.fixture(autouse=True)
def _linux():
    if not can_measure(CPU):
        pytest.skip("only Linux tells the peak of a process")


def test_the_peak_holds_what_was_freed_and_held_what_was_not():
    with PeakMemory(CPU) as memory:
        kept = torch.ones(32 * MIB, dtype=torch.uint8)
        gone = torch.ones(64 * MIB, dtype=torch.uint8)
        del gone
    assert 95 * MIB <= memory.peak < 110 * MIB
    assert 31 * MIB <= memory.held < 46 * MIB
    assert len(kept) == 32 * MIB


def test_an_earlier_peak_does_not_count():
    torch.ones(128 * MIB, dtype=torch.uint8)
    with PeakMemory(CPU) as memory:
        torch.ones(16 * MIB, dtype=torch.uint8)
    assert 15 * MIB <= memory.peak < 40 * MIB


def test_there_is_some_left():
    assert free_bytes(CPU) > 16 * MIB


def test_bytes_in_words():
    assert in_words(3 * MIB) == "3.0 MiB"
    assert in_words(2**30 * 3 // 2) == "1.50 GiB"
