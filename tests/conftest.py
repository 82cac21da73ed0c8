"""Goldens: outputs of the reference implementations on reproducible weights, where they are at hand."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch

# The networks are tiny: threads wait for each other longer than they compute. Also of the processes that tests start.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
torch.backends.cudnn.allow_tf32 = False  # as in the scripts: fp32 is fp32

ROOT = Path(__file__).parent.parent
GOLDEN = ROOT.parent / "shared" / "golden"


def _golden_io() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden_io", GOLDEN / "golden_io.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["golden_io"] = module
    spec.loader.exec_module(module)
    return module


class Golden:
    """One golden file: its configuration, the weights it was made with, its inputs and expected outputs."""

    def __init__(self, name: str) -> None:
        path = GOLDEN / f"{name}.npz"
        if not path.exists():
            pytest.skip(f"the golden file {name}.npz is not at hand (../shared/golden)")
        self.name = name
        self.io = _golden_io()
        self.file = self.io.load(str(path))
        self.config: dict[str, Any] = self.file.config

    def __getitem__(self, key: str) -> np.ndarray:
        """An array, table or number stored in the file."""
        return self.file[key]

    def tensor(self, key: str, recipe: str | None = None) -> torch.Tensor:
        """A stored array, or an input that is reproduced from its recipe."""
        return torch.from_numpy(np.array(self.file.array(key, recipe or f"{self.name}/{key}")))

    def state_dict(self, prefix: str = "") -> dict[str, torch.Tensor]:
        """The weights the reference ran with, under the reference's names."""
        filled = self.io.fill(self.file.state, self.file.norm_keys, prefix=prefix)
        return {key: torch.from_numpy(value) for key, value in filled.items()}

    def normal(self, recipe: str, shape: tuple[int, ...]) -> torch.Tensor:
        """The standard normal draw that belongs to a recipe string."""
        return torch.from_numpy(self.io.normal(recipe, shape))

    def check(self, key: str, got: torch.Tensor, atol: float, rtol: float = 0.0) -> float:
        """Asserts that `got` is the stored output -> the largest absolute difference."""
        return self.file.check(key, got.detach().cpu().numpy(), atol=atol, rtol=rtol)


@pytest.fixture
def golden():
    """golden("ddim_cifar10") is that file; the test is skipped with a reason where it is not at hand."""
    return Golden
