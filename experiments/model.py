"""A model as configured: its network, the noise schedule it was trained on, and where its weights are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

import torch

import configs
from caching import Macs
from configs import InputError
from models import PartsConfig
from models.download import PublicFile
from samplers import DiffusionConfig


@dataclass(frozen=True)
class ModelConfig(PartsConfig):
    """The contents of one file of configs/models: the networks, and what was done and published with them."""

    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)
    checkpoints: dict[str, PublicFile] = field(default_factory=dict)  # by name; the first is the default
    paper_group_norms: bool = True  # does the paper's count of MACs hold its GroupNorms? see Macs in caching/cost.py

    def paper_macs(self, macs: Macs) -> int:
        """The cost of a pass as the DeepCache paper counts it for this model."""
        return macs.paper(self.paper_group_norms)


def model_config(name: str) -> ModelConfig:
    """The configuration that `name` means: NAME in configs/models, or a YAML file."""
    path = configs.find(name, "models")
    return _read(str(name), path, path.stat().st_mtime_ns if path.exists() else 0)


def default_checkpoint(model: str) -> str:
    """The first that a model names. Raises InputError where it names none."""
    named = model_config(model).checkpoints
    if not named:
        raise InputError(f"the model {model} names no checkpoint; give checkpoint=FILE, or checkpoint=random to try it")
    return next(iter(named))


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0].partition(". ")[0]  # the first line may be a page
        raise InputError(f"device {name!r} cannot be used here ({reason}); try auto") from error
    return device


@lru_cache
def _read(name: str, path: Path, changed: int) -> ModelConfig:
    """Tables ask for the same few models again and again."""
    return configs.parse(ModelConfig, configs.read(path), where=name)
