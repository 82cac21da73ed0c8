"""batch_size=auto: the largest batch that fits, up to where larger ones bring no more speed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice

import torch

from configs import InputError
from experiments.grid import Strategy
from experiments.pipeline import Pipeline
from experiments.runs.memory import PeakMemory, can_measure, free_bytes, give_back, in_words, is_out_of_memory
from experiments.runs.sampling import begin, begin_all
from samplers import Sampler

AUTO = "auto"

# By kind of device: images beyond which a larger batch is no faster, and the share of the free memory that is used. A
# GPU is ours, but for what fragments; a CPU's memory is other programs', too, and those may be killed for it.
LARGEST = {"cuda": 256, "cpu": 32}
SHARE = {"cuda": 0.9, "cpu": 0.5}


@dataclass(frozen=True)
class MemoryModel:
    """Bytes that sampling takes on top of the weights, as a line in the batch size."""

    fixed: int
    per_image: int

    @classmethod
    def through(cls, one: int, two: int) -> MemoryModel:
        """The line through the peaks of one image and of two."""
        per_image = max(two - one, 1)
        return cls(max(one - per_image, 0), per_image)

    def largest(self, limit: float) -> int:
        """The largest batch within `limit` bytes; 0 where not even one image fits."""
        return max(0, int((limit - self.fixed) // self.per_image))


def auto_batch_size(
    pipeline: Pipeline, sampler: Sampler, chosen: Sequence[Strategy], most: int, sharers: int = 1
) -> int:
    """A batch whose full passes fit into the memory that is free, beside the stores of all strategies.

    most: images that are wanted. sharers: processes that will take batches of this size on the same device.

    The answer is `most`, or the power of two below what fits: so it is the same again on the same machine, though the
    memory that others use comes and goes. On a GPU it has been tried.

    Raises InputError where not even one image fits.
    """
    kind = pipeline.device.type
    cap = min(most, LARGEST.get(kind, LARGEST["cpu"]))
    if not can_measure(pipeline.device):
        return whole(cap, most)
    if pipeline.config.compile:  # programs are for one shape of batch: they wait for the one that is found here
        uncompiled = replace(pipeline.config, compile=False)
        pipeline = Pipeline(pipeline.parts, uncompiled, num_timesteps=max(sampler.eval_timesteps) + 1)
    peak(pipeline, sampler, chosen, 1)  # libraries and layers set themselves up in their first call
    free = free_bytes(pipeline.device) // sharers
    one, two = (peak(pipeline, sampler, chosen, batch) for batch in (1, 2))
    model = MemoryModel.through(one, two)
    batch = whole(min(cap, model.largest(SHARE[kind] * free)), most)
    if batch < 1:
        raise InputError(f"one image needs {in_words(model.fixed + model.per_image)} of memory, and "
                         f"{in_words(free)} are free; try precision=bf16, or a smaller height and width")  # fmt: skip
    return tried(pipeline, sampler, chosen, batch) if kind == "cuda" else batch


def whole(batch: int, most: int) -> int:
    """All of the images that are wanted, or the power of two that is not above `batch`."""
    return most if batch >= most else 1 << (batch.bit_length() - 1) if batch else 0


def tried(pipeline: Pipeline, sampler: Sampler, chosen: Sequence[Strategy], batch: int) -> int:
    """`batch`, halved until it runs. Raises InputError where one image does not."""
    while batch:
        try:
            trial(pipeline, sampler, chosen, batch)
            give_back(pipeline.device)  # recording a CUDA graph may take nothing from what the allocator keeps
            return batch
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            batch //= 2
        give_back(pipeline.device)  # not above: there the exception still holds what did not fit
    raise InputError("the memory of the GPU does not hold one image; try precision=bf16, or a smaller height and width")


def peak(pipeline: Pipeline, sampler: Sampler, chosen: Sequence[Strategy], batch: int) -> int:
    """Bytes that `batch` images take at once, at most, on top of the weights."""
    try:
        with PeakMemory(pipeline.device) as memory:
            trial(pipeline, sampler, chosen, batch)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        raise InputError(f"the memory of the GPU does not hold a batch of {batch}; give batch_size=1, or try "
                         "precision=bf16, or a smaller height and width") from error  # fmt: skip
    return memory.peak or 0


@torch.inference_mode()
def trial(pipeline: Pipeline, sampler: Sampler, chosen: Sequence[Strategy], batch: int) -> None:
    """The first two steps of every strategy's trajectory, with the stores that they leave, and one image decoded: the
    most that sampling holds at once."""
    seeds = range(batch)
    runs = begin_all(pipeline, sampler, chosen)  # whose stores all live until the image is decoded
    for run in runs:
        noise = pipeline.noise(seeds)
        denoiser = pipeline.bind(run.cached, seeds, begin(sampler, run))
        for step in islice(sampler.sample(denoiser, noise(), noise), 2):
            x = step.x
    pipeline.decode(x[:1])
