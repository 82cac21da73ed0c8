"""A model as configured: its network, the noise schedule it was trained on, and where its weights are."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

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

    @property
    def context_length(self) -> int:
        """Tokens of the cross-attention context."""
        return self.conditioning.text.length if self.conditioning and self.conditioning.text else 1

    def latent_size(self, height: int | None = None, width: int | None = None) -> tuple[int, int]:
        """The size (H, W) of the network's input for images of so many pixels; None is as trained."""
        factor = self.first_stage.downsampling if self.first_stage else 1
        trained = self.network.resolution
        return trained if height is None else height // factor, trained if width is None else width // factor

    def paper_macs(self, macs: Macs) -> int:
        """The cost of a pass as the DeepCache paper counts it for this model."""
        return macs.paper(self.paper_group_norms)


def model_config(name: str) -> ModelConfig:
    """The configuration that `name` means: NAME in configs/models, or a YAML file."""
    path = configs.find(name, "models")
    return _read(str(name), path, path.stat().st_mtime_ns if path.exists() else 0)


def read_config(name: str, folder: str = "") -> dict[str, Any]:
    """The content of the configuration file that `name` means: a YAML file, or NAME in configs/`folder`. Of a model's
    own file it is a default run of that model."""
    content = configs.read(configs.find(name, folder))
    return {"model": name} if "network" in content else content


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
