"""From a folder of samples to the one file that OpenAI's evaluator reads, a few images in memory at a time."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from omegaconf import MISSING
from torch import Tensor
from tqdm import tqdm

from configs import InputError
from experiments.data import Images, sample_folder
from experiments.runs.samples import labels_of, open_samples
from models.files import write_atomically

BATCH = 64  # images in memory


@dataclass(frozen=True)
class CollectConfig:
    """One run of scripts/collect.py."""

    folder: str = MISSING  # with images or shards, or a run's with one set of images
    out: str = MISSING  # the .npz file


def collect(config: CollectConfig) -> str:
    """Writes the file -> a line about it. Raises InputError for a folder without images and for damaged ones, OSError
    where the file cannot be written; it appears whole or not at all."""
    folder, out = sample_folder(Path(config.folder)), Path(config.out)
    if out.suffix != ".npz":
        raise InputError(f"out must be the name of an .npz file, not {config.out}")
    images = open_samples(folder)
    labels = labels_of(folder)
    if labels is not None and len(labels) != len(images):
        raise InputError(f"{folder} holds {len(images)} images, but {len(labels)} labels; let its run be finished")
    write_atomically(out, lambda unfinished: _write(unfinished, images, labels))
    _, channels, height, width = images.batch([0]).shape
    what = f"{len(images)} images, {height}x{width}, {channels} channel{'s' * (channels > 1)}"
    return f"{out}: {what}, {'with' if labels is not None else 'without'} labels"


def _write(path: Path, images: Images, labels: Tensor | None) -> None:
    _, channels, height, width = images.batch([0]).shape
    with zipfile.ZipFile(path, "w") as archive:
        _write_array(archive, "arr_0", (len(images), height, width, channels), np.dtype(np.uint8), _pixels(images))
        if labels is not None:
            _write_array(archive, "arr_1", (len(labels),), np.dtype(np.int64), iter([labels.numpy()]))


def _write_array(
    archive: zipfile.ZipFile, name: str, shape: tuple[int, ...], dtype: np.dtype, parts: Iterator[np.ndarray]
) -> None:
    """One array of an .npz file, as numpy lays it down, from consecutive parts of it."""
    header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": shape}
    # A name alone is dated 1980, so that the same images make the same file; sizes beyond 4 GiB must be announced.
    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).tobytes())


def _pixels(images: Images) -> Iterator[np.ndarray]:
    """(B, H, W, C) uint8, in order."""
    starts = range(0, len(images), BATCH)
    for start in tqdm(starts, desc="collecting", unit="batch", delay=1):
        yield images.batch(range(start, min(start + BATCH, len(images)))).permute(0, 2, 3, 1).numpy()
