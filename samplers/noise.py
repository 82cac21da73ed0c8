"""Per-image randomness: image i depends on its seed alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import torch
from torch import Tensor

from configs import InputError

NUM_SEEDS = 2**32  # how many different ones a generator of torch's knows
_AHEAD = ThreadPoolExecutor(1, thread_name_prefix="noise")  # whose thread starts when it is first needed


class ImageNoise:
    """Standard normal draws of shape (B, *shape), image i always from a generator of its own.

    The generators live on the CPU, whose stream is the same on every machine: an image is then the same at any batch
    size, in any order, on any number of processes. The first draw of a run is x_T. Whoever asks a second time
    is a sampler that adds noise at every step: from then on the next draw is made while the network computes.

    Raises InputError for a seed outside 0..2³² - 1: of any other, torch's generators ignore the upper bits.
    """

    def __init__(self, seeds: Sequence[int], shape: Sequence[int], device: torch.device | str = "cpu") -> None:
        if outside := [seed for seed in seeds if not 0 <= seed < NUM_SEEDS]:
            raise InputError(f"the seed of an image must lie in 0..{NUM_SEEDS - 1}, not {outside[0]}")
        self.generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self.shape = tuple(shape)
        self.device = torch.device(device)
        self._asked = False
        self._ahead: Future[Tensor] | None = None  # the next draw

    def __call__(self) -> Tensor:
        draws = self._draw() if self._ahead is None else self._ahead.result()
        if self._asked:
            self._ahead = _AHEAD.submit(self._draw)
        self._asked = True
        return draws.to(self.device, non_blocking=draws.is_pinned())

    def _draw(self) -> Tensor:
        # A copy to the GPU waits for all the work queued there, unless it comes from pinned memory.
        draws = torch.empty(len(self.generators), *self.shape, pin_memory=self.device.type == "cuda")
        for draw, generator in zip(draws, self.generators, strict=True):
            draw.normal_(generator=generator)
        return draws
