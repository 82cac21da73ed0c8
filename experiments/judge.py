"""Judging folders of samples with the classifier of digits."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import MISSING
from torch import Tensor

from configs import InputError
from experiments.classifier import BUNDLED, CONFIDENT, Classifier, load, predict
from experiments.data import ArrayImages, image_paths, read_image, to_tensor


@dataclass(frozen=True)
class JudgeConfig:
    folder: str = MISSING  # with the images, also in its sub-folders, each of which is judged by itself
    classifier: str = BUNDLED


@dataclass(frozen=True)
class Judgement:
    """What the classifier says of a set of images."""

    name: str
    images: int
    confident: float  # share of the images with a class above CONFIDENT
    confidence: float  # mean probability of the likeliest class
    counts: tuple[int, ...]  # confident images of each class


def judge(config: JudgeConfig) -> str:
    """Judges the images below a folder -> the table to print."""
    network = load(config.classifier)
    folders, left_out = read_folders(Path(config.folder), network.config.resolution)
    rows = [judge_images(network, pixels, name) for name, pixels in folders.items()]
    note = [f"images of another size, left out: {left_out}"] if left_out else []
    return "\n".join([*table(rows, network.record), *note])


def judge_images(network: Classifier, pixels: Tensor, name: str) -> Judgement:
    """Judges images (N, 1, resolution, resolution) uint8."""
    prediction = predict(network, ArrayImages(pixels))
    return Judgement(
        name=name,
        images=len(pixels),
        confident=prediction.confident.float().mean().item(),
        confidence=prediction.confidence.mean().item(),
        counts=tuple(prediction.classes[prediction.confident].bincount(minlength=network.config.num_classes).tolist()),
    )


def read_folders(root: Path, resolution: int) -> tuple[dict[str, Tensor], int]:
    """The images of the right size, by folder from `root` down -> {folder: (N, 1, resolution, resolution) uint8},
    and how many images of other sizes (grids, say) there are."""
    folders, left_out = {}, 0
    for folder, paths in itertools.groupby(
        sorted(image_paths(root), key=lambda path: path.parent), lambda path: path.parent
    ):
        pictures = [read_image(path, channels=1, what=str(path)) for path in paths]
        fitting = [to_tensor(picture) for picture in pictures if picture.size == (resolution, resolution)]
        left_out += len(pictures) - len(fitting)
        if fitting:
            folders[str(folder.relative_to(root))] = torch.stack(fitting)
    if not folders:
        raise InputError(f"none of the {left_out} images below {root} has {resolution}x{resolution} pixels, "
                         "as the classifier's digits do")  # fmt: skip
    return folders, left_out


def table(rows: Sequence[Judgement], record: Mapping[str, Any]) -> list[str]:
    """One line per set of images, and one for what the classifier said of real test digits."""
    head = ["folder", "images", f"above {CONFIDENT}", "mean", *map(str, range(len(rows[0].counts))), "none"]
    cells = [
        [row.name, str(row.images), f"{row.confident:.1%}", f"{row.confidence:.3f}",
         *map(str, row.counts), str(row.images - sum(row.counts))]
        for row in rows
    ]  # fmt: skip
    real = [f"{record['test_confident']:.1%}", f"{record['test_confidence']:.3f}", *[""] * (len(head) - 4)]
    cells.append(["real test digits", str(record["test_images"]), *real])
    widths = [max(map(len, column)) for column in zip(head, *cells, strict=True)]
    lines = [[name.ljust(widths[0]), *map(str.rjust, others, widths[1:])] for name, *others in (head, *cells)]
    return ["  ".join(line).rstrip() for line in lines]
