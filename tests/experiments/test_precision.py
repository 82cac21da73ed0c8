"""experiments/precision.py: who computes in a type that the processor only imitates is told."""

import pytest
import torch

from experiments import precision
from experiments.precision import emulation_warning

CPU = torch.device("cpu")


@pytest.fixture
def seconds(monkeypatch):
    """How long a product takes in each type, as if measured."""
    table = {torch.float32: 1.0}
    monkeypatch.setattr(precision, "_product_seconds", table.__getitem__)
    return table


def test_a_slower_type_is_named_with_its_factor(seconds):
    seconds[torch.bfloat16] = 3.0
    assert emulation_warning("bf16", CPU) == (
        "this processor has no arithmetic in bf16: products take 3.0 times as long as in fp32"
    )


def test_a_faster_type_needs_no_word(seconds):
    seconds[torch.float16] = 0.6
    assert emulation_warning("fp16", CPU) is None


@pytest.mark.parametrize(("name", "device"), [("fp32", CPU), ("bf16", torch.device("cuda"))])
def test_nothing_is_measured_where_nothing_is_imitated(monkeypatch, name, device):
    monkeypatch.setattr(precision, "_product_seconds", None)
    assert emulation_warning(name, device) is None


def test_what_is_measured_is_a_time():
    assert 0 < precision._product_seconds(torch.float32) < 10
