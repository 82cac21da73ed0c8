"""What a latent U-Net is told besides x and t: class labels or prompts, turned into cross-attention context."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from omegaconf import MISSING
from torch import Tensor, nn

from configs import InputError


@dataclass(frozen=True)
class ClassesConfig:
    """Class labels, each an embedding of its own (Rombach et al. 2022, ImageNet)."""

    num_classes: int = MISSING
    dim: int = 512
    unconditional: int | None = None  # the label trained to mean any class; classifier-free guidance needs it

    def __post_init__(self) -> None:
        if self.num_classes < 1 or self.dim < 1:
            raise InputError("conditioning.classes: num_classes and dim must be at least 1")
        if self.unconditional is not None and not 0 <= self.unconditional < self.num_classes:
            raise InputError(f"conditioning.classes: unconditional is {self.unconditional}, but labels lie in "
                             f"0..{self.num_classes - 1}")  # fmt: skip


@dataclass(frozen=True)
class TextConfig:
    """Prompts, encoded by the text transformer of CLIP (Radford et al. 2021); the defaults are its ViT-L/14."""

    vocab_size: int = 49408
    dim: int = 768
    layers: int = 12
    heads: int = 12
    mlp_dim: int = 3072
    length: int = 77  # tokens of every prompt, padded or cut
    tokenizer: str = "openai/clip-vit-large-patch14"  # on the hub, or a folder with vocab.json and merges.txt

    def __post_init__(self) -> None:
        for name in ("vocab_size", "dim", "layers", "heads", "mlp_dim", "length"):
            if getattr(self, name) < 1:
                raise InputError(f"conditioning.text: {name} must be at least 1, not {getattr(self, name)}")
        if self.dim % self.heads:
            raise InputError(f"conditioning.text: {self.heads} heads do not divide dim = {self.dim}")


@dataclass(frozen=True)
class ConditioningConfig:
    """Exactly one of the two."""

    classes: ClassesConfig | None = None
    text: TextConfig | None = None

    def __post_init__(self) -> None:
        if (self.classes is None) == (self.text is None):
            raise InputError("conditioning has exactly one of classes and text")


class ClassEmbedder(nn.Module):
    """Class labels as a context of one token."""

    def __init__(self, config: ClassesConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.num_classes, config.dim)

    def forward(self, labels: Tensor) -> Tensor:
        """labels (B,) int64 -> (B, 1, dim). Raises InputError for a label that does not exist."""
        outside = labels[(labels < 0) | (labels >= self.config.num_classes)]
        if len(outside):
            raise InputError(f"there is no class {int(outside[0])}; labels lie in 0..{self.config.num_classes - 1}")
        return self.embedding(labels)[:, None]

    def unconditional(self, count: int) -> Tensor:
        """The context (count, 1, dim) of no class in particular. Raises InputError where none was trained."""
        if self.config.unconditional is None:
            raise InputError("this model was trained without an unconditional class, so it cannot be guided")
        return self(torch.full((count,), self.config.unconditional, device=self.embedding.weight.device))
