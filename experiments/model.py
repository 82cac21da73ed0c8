"""A model as configured: its network, the noise schedule it was trained on, and where its weights are."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from omegaconf import MISSING

import configs
from configs import InputError
from models import UNetConfig
from samplers import DiffusionConfig


@dataclass(frozen=True)
class ModelConfig:
    """The contents of one file of configs/models."""

    network: UNetConfig = MISSING
    diffusion: DiffusionConfig = field(default_factory=DiffusionConfig)


def model_config(name: str) -> ModelConfig:
    """The configuration that `name` means: NAME in configs/models, or a YAML file."""
    path = configs.find(name, "models")
    return configs.parse(ModelConfig, configs.read(path), where=str(name))


def pick_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one, else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise InputError(f"device {name!r} cannot be used here ({str(error).splitlines()[0]}); try auto") from error
    return device
