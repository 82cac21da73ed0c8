"""Networks whose features sets of images are compared in."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import configs
from configs import InputError
from experiments.evaluation.cifar_resnet import is_resnet, load_resnet
from experiments.training import classifier
from models import reading
from models.download import digest

POOL = "pool"  # the layer that every network has: one vector per image


@dataclass(frozen=True)
class FeatureNetwork:
    """Images (N, C, H, W) uint8 -> features (N, width) by layer, and what to call distances in them."""

    name: str
    sha256: str  # of the file of its weights
    widths: Mapping[str, int]  # of its layers; POOL is one of them
    metrics: Mapping[str, str]  # layer -> the name of the Fréchet distance in its features
    extract: Callable[[Tensor], dict[str, Tensor]]
    head: Tensor | None = None  # (classes, width): the Inception Score's logits are POOL @ headᵀ

    def __call__(self, images: Tensor) -> dict[str, Tensor]:
        """Features (N, width) float32 on the CPU, by layer. Raises InputError for images of another shape or type."""
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] not in (1, 3):
            raise InputError(f"images must be (N, 1 or 3, H, W) uint8, not {tuple(images.shape)} {images.dtype}")
        with torch.no_grad():
            return {layer: features.float().cpu() for layer, features in self.extract(images).items()}


def load_features(path: str | Path, device: torch.device) -> FeatureNetwork:
    """A network other than Inception: a classifier of scripts/train_classifier.py, or a CIFAR ResNet.

    Raises InputError for a file that is missing, damaged or neither.
    """
    file = Path(path) if Path(path).exists() else configs.ROOT / path
    state = reading.read(file)
    if state.metadata.get("format") == classifier.FORMAT:
        return _digits(file, device)
    if is_resnet(state.tensors):
        network, name = load_resnet(state.tensors, str(path), device)
        return _named(name, file, network.linear.in_features, network.features)
    raise InputError(f"{path} is neither a classifier of scripts/train_classifier.py nor a CIFAR ResNet")


def _digits(file: Path, device: torch.device) -> FeatureNetwork:
    network = classifier.load(file).to(device)
    side = network.config.resolution

    def features(images: Tensor) -> Tensor:
        if images.shape[1:] != (1, side, side):
            raise InputError(f"{file.stem} takes images of 1x{side}x{side}, "
                             f"not {'x'.join(map(str, images.shape[1:]))}")  # fmt: skip
        return network.features(images.to(device).float() / 127.5 - 1)

    return _named(file.stem, file, network.config.features, features)


def _named(name: str, file: Path, width: int, features: Callable[[Tensor], Tensor]) -> FeatureNetwork:
    return FeatureNetwork(
        name=name,
        sha256=digest(file, "sha256"),
        widths={POOL: width},
        metrics={POOL: f"FD-{name}"},
        extract=lambda images: {POOL: features(images)},
    )
