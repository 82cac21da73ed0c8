"""What a network keeps of a cached branch: one tensor, or a few that together take its place."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

# What enters up[b] (B, C, H, W); or a named tuple of what was made from it, where a network says so (models/split.py).
Feature = Tensor | tuple[Tensor, ...]


def each(function: Callable[..., Tensor], *features: Feature) -> Feature:
    """`function` of the corresponding tensors of features of one kind -> a feature of that kind."""
    first = features[0]
    if isinstance(first, Tensor):
        return function(*features)
    return type(first)(*(function(*parts) for parts in zip(*features, strict=True)))


def tensors(feature: Feature) -> Sequence[Tensor]:
    """The tensors of a feature."""
    return (feature,) if isinstance(feature, Tensor) else feature
