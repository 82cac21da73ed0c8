"""Small networks on which caching can be watched."""

import pytest
import torch
from small_networks import DDPM

import models


@pytest.fixture(scope="session")
def network() -> models.UNet:
    return models.load("random", DDPM)


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Recorder:
    """Stands in for a network: counts the passes and hands out features that say when they were made."""

    def __init__(self, num_branches: int = 6) -> None:
        self.num_branches = num_branches
        self.calls: list[dict] = []

    def __call__(self, x, t, cond=None, *, branch=None, feature=None, taps=()):
        now = len(self.calls)
        value = None if feature is None else float(feature.flatten()[0])
        self.calls.append({"branch": branch, "feature": value, "taps": tuple(taps), "cond": cond})
        return x * 0.5, {tap: torch.full((len(x), 4, 2, 2), float(now)) for tap in taps}


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()
