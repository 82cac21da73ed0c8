"""Judging folders of samples with the classifier of digits: image by image, and as a set beside real digits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import MISSING
from torch import Tensor

from configs import InputError
from experiments.data import ArrayImages, Images, data_name, open_images, to_channels
from experiments.evaluation.frechet import FeatureStatistics, frechet_distance
from experiments.evaluation.sets import open_sets
from experiments.reports.tables import markdown
from experiments.training.classifier import BUNDLED, CONFIDENT, Classifier, Prediction, load, predict


@dataclass(frozen=True)
class JudgeConfig:
    """One run of scripts/judge.py."""

    folder: str = MISSING  # of samples, also in its sub-folders, each judged by itself; or an .npz of them in arr_0
    classifier: str = BUNDLED
    data: str = "mnist"  # the real digits: mnist, or whatever else open_images takes


@dataclass(frozen=True)
class Judgement:
    """What the classifier says of a set of images."""

    name: str
    images: int
    confident: float  # share of the images with a class above CONFIDENT
    confidence: float  # mean probability of the likeliest class
    counts: tuple[int, ...]  # confident images of each class
    frechet: float | None = None  # distance to real digits; None without them, and for a single image


def judge(config: JudgeConfig) -> str:
    """Judges the images below a folder -> the table to print, with notes below it."""
    network = load(config.classifier)
    folders, left_out = read_folders(Path(config.folder).expanduser(), network.config.resolution)
    real, note = real_statistics(config, network)
    rows = [judge_images(network, pixels, name, real) for name, pixels in folders.items()]
    notes = ["", note] + ([f"images of another size, left out: {left_out}"] if left_out else [])
    return "\n".join([*markdown(table(rows, network.record)), *notes])


def judge_images(network: Classifier, pixels: Tensor, name: str, real: FeatureStatistics | None = None) -> Judgement:
    """Judges images (N, 1, resolution, resolution) uint8."""
    prediction = predict(network, ArrayImages(pixels))
    frechet = None
    if real is not None and len(pixels) > 1:
        frechet = frechet_distance(_statistics(prediction), real)
    return Judgement(
        name=name,
        images=len(pixels),
        confident=prediction.confident.float().mean().item(),
        confidence=prediction.confidence.mean().item(),
        counts=tuple(prediction.classes[prediction.confident].bincount(minlength=network.config.num_classes).tolist()),
        frechet=frechet,
    )


def real_statistics(config: JudgeConfig, network: Classifier) -> tuple[FeatureStatistics | None, str]:
    """The statistics of the real test digits, None where MNIST is not at hand; and what to say about it. Raises
    InputError for any other data that are not there."""
    try:
        statistics = image_statistics(network, open_images(config.data, "test", 1, network.config.resolution))
    except InputError as error:
        if config.data != JudgeConfig.data:
            raise
        return None, f"no Fréchet distances, for want of real digits: {' '.join(str(error).split())}"
    return statistics, (
        f"Fréchet: distance of the set to the {statistics.count} test digits of {data_name(config.data)} in the "
        f"features of {Path(config.classifier).stem}; compare sets of one size only."
    )


def image_statistics(network: Classifier, images: Images) -> FeatureStatistics:
    """The statistics of a set of images, as `open_images` gives it, in the features of `network`."""
    return _statistics(predict(network, images))


def read_folders(root: Path, resolution: int) -> tuple[dict[str, Tensor], int]:
    """The sets of samples at `root` (see open_sets) whose images have the right size
    -> {name: (N, 1, resolution, resolution) uint8}, and how many images of other sizes there are.

    Raises InputError where none is left.
    """
    sets = open_sets(root)
    fitting = [images for images in sets if images.shape[1:] == (resolution, resolution)]
    left_out = sum(map(len, sets)) - sum(map(len, fitting))
    if not fitting:
        raise InputError(f"none of the {left_out} images at {root} has {resolution}x{resolution} pixels, as the "
                         "classifier's digits do")  # fmt: skip
    read = {images.name: images.images.batch(range(len(images))).permute(0, 2, 3, 1).numpy() for images in fitting}
    return {name: to_channels(pixels, 1, name) for name, pixels in read.items()}, left_out


def table(rows: Sequence[Judgement], record: Mapping[str, Any]) -> list[list[str]]:
    """The header, a row per set of images, and one for what the classifier said of the test digits of its training."""
    head = ["folder", "images", f"above {CONFIDENT}", "mean", "Fréchet", *map(str, range(len(rows[0].counts))), "none"]
    cells = [
        [row.name, str(row.images), f"{row.confident:.1%}", f"{row.confidence:.3f}",
         "" if row.frechet is None else f"{row.frechet:.4g}", *map(str, row.counts), str(row.images - sum(row.counts))]
        for row in rows
    ]  # fmt: skip
    real = ["real test digits", str(record["test_images"]), f"{record['test_confident']:.1%}",
            f"{record['test_confidence']:.3f}"]  # fmt: skip
    return [head, *cells, real + [""] * (len(head) - len(real))]


def _statistics(prediction: Prediction) -> FeatureStatistics:
    statistics = FeatureStatistics(prediction.features.shape[1])
    statistics.update(prediction.features)
    return statistics
