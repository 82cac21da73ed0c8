"""Per-image randomness: image i depends on its seed alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class ImageNoise:
    """Standard normal draws of shape (B, *shape), image i always from a generator of its own.

    The generators live on the CPU, whose stream is the same on every machine: an image is then the same at any batch
    size, in any order, on any number of processes. The first draw of a run is x_T.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shape = tuple(shape)
        self.device = torch.device(device)

    def __call__(self) -> Tensor:
        # A copy to the GPU waits for all the work queued there, unless it comes from pinned memory.
        pinned = self.device.type == "cuda"
        draws = torch.empty(len(self.generators), *self.shape, pin_memory=pinned)
        for draw, generator in zip(draws, self.generators, strict=True):
            draw.normal_(generator=generator)
        return draws.to(self.device, non_blocking=pinned)
