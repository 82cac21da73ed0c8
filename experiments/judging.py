"""What a row's images are worth: how close they are to the uncached ones, and how far, as a set, from real ones."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from pathlib import Path

import torch
from torch import Tensor

from configs import InputError
from experiments import classifier
from experiments.data import data_name, image_paths, open_images, read_image, to_tensor
from experiments.frechet import FeatureStatistics, frechet_distance, image_statistics
from experiments.metrics import Closeness, closeness
from experiments.model import model_config
from experiments.run import SampleConfig

BATCH = 64  # images compared at a time


@dataclass(frozen=True)
class Judged:
    """Metrics by name, and why others are missing."""

    metrics: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


class Judges:
    """Measures folders of images; real images and their statistics are read once.

    data: real images, as open_images takes them; None leaves distances out.
    """

    def __init__(self, data: str | None = None) -> None:
        self.data = data

    def measure(self, images: Path, reference: Path | None, config: SampleConfig) -> Judged:
        """images: those of a row. reference: of its uncached row, None for an uncached one itself."""
        channels = 1 if model_config(config.model).network.in_channels == 1 else 3
        metrics: dict[str, float] = {}
        if reference is not None:
            measured = compare(images, reference, channels).summary()
            metrics = {name: value for name, value in measured.items() if value is not None}
        if self.data is None:
            return Judged(metrics)
        try:
            return Judged(metrics | {"frechet": self._frechet(images, channels, config)})
        except InputError as error:
            return Judged(metrics, [f"no Fréchet distance: {error}"])

    def _frechet(self, images: Path, channels: int, config: SampleConfig) -> float:
        side = model_config(config.model).network.resolution
        if (channels, side) != (1, self._classifier.config.resolution):
            raise InputError("its feature network, the classifier of digits, does not take images of this model")
        samples = image_statistics(self._classifier, open_images(str(images), "test", channels, side))
        return frechet_distance(samples, self._real)

    @cached_property
    def _classifier(self) -> classifier.Classifier:
        return classifier.load(classifier.BUNDLED)

    @cached_property
    def _real(self) -> FeatureStatistics:
        return image_statistics(self._classifier, open_images(self.data or "", "test", 1, 32))

    @property
    def about(self) -> str:
        """What the distances are."""
        return (f"Fréchet: distance to the test images of {data_name(self.data or '')} in the features of "
                f"{Path(classifier.BUNDLED).stem}, which is not FID; compare sets of one size only.")  # fmt: skip


def compare(images: Path, reference: Path, channels: int) -> Closeness:
    """The closeness of PNG files to those of the same name in another folder, as they were written, in 8 bits.

    Raises InputError where the two folders do not hold the same images.
    """
    ours, theirs = ({path.name: path for path in image_paths(folder)} for folder in (images, reference))
    if ours.keys() != theirs.keys():
        raise InputError(f"{images} and {reference} do not hold images of the same seeds")
    names = sorted(ours)
    parts = [
        closeness(_read([ours[name] for name in batch], channels), _read([theirs[name] for name in batch], channels))
        for batch in _batches(names)
    ]
    return Closeness(
        psnr=tuple(chain.from_iterable(part.psnr for part in parts)),
        ssim=tuple(chain.from_iterable(part.ssim for part in parts)),
    )


def _batches(names: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(names), BATCH):
        yield names[start : start + BATCH]


def _read(paths: list[Path], channels: int) -> Tensor:
    """PNG files -> (B, C, H, W) in [-1, 1]."""
    pixels = torch.stack([to_tensor(read_image(path, channels, str(path))) for path in paths])
    return pixels.float() / 127.5 - 1
