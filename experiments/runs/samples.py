"""Samples on disk: how the images of a block are laid down, in a folder of PNGs or of .npz shards, and how they are
read again."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

import configs
from configs import InputError
from experiments.data import (
    FolderImages,
    ShardImages,
    array_header,
    holds_shards,
    image_paths,
    in_order,
    read_arrays,
    sample_folder,
    to_tensor,
)
from experiments.images import encode_png


class Batch(NamedTuple):
    """Some images of one block."""

    seeds: Sequence[int]
    images: Tensor  # (B, C, H, W) uint8
    labels: Sequence[int] | None = None  # of class-conditional models


class Storage(Protocol):
    """One way to lay down images. `block` is the range of seeds that a block covers, whichever of them are stored."""

    pattern: str  # regular expression of the names of its files

    def encode(self, block: range, batch: Batch) -> dict[str, bytes]:
        """The files of these images: contents by name."""
        ...

    def names(self, block: range, seeds: Sequence[int]) -> list[str]:
        """The files that hold these seeds of a block."""
        ...

    def read(self, folder: Path, block: range, seeds: Sequence[int]) -> Tensor:
        """The images (B, C, H, W) uint8 of these seeds of a block. Raises InputError where they are damaged."""
        ...

    def present(self, folder: Path, block: range) -> set[int]:
        """The seeds of a block that seem to be there."""
        ...


class Png:
    """One file for each image, named after its seed."""

    pattern = r"\d{6,}\.png"

    def encode(self, block: range, batch: Batch) -> dict[str, bytes]:
        return {self._name(seed): encode_png(image) for seed, image in zip(batch.seeds, batch.images, strict=True)}

    def names(self, block: range, seeds: Sequence[int]) -> list[str]:
        return [self._name(seed) for seed in seeds]

    def read(self, folder: Path, block: range, seeds: Sequence[int]) -> Tensor:
        return torch.stack([read_png(folder / name) for name in self.names(block, seeds)])

    def present(self, folder: Path, block: range) -> set[int]:
        return {seed for seed in block if (folder / self._name(seed)).exists()}

    def _name(self, seed: int) -> str:
        return f"{seed:06d}.png"


class Npz:
    """One file for each block, named after the seeds it covers, in the format of OpenAI's evaluator: arr_0 (n, H, W, C)
    uint8, of class-conditional models arr_1 (n,); and besides it `seeds` (n,), which of the block these are."""

    pattern = r"\d{6,}-\d{6,}\.npz"

    def encode(self, block: range, batch: Batch) -> dict[str, bytes]:
        arrays = {"arr_0": batch.images.permute(0, 2, 3, 1).numpy(), "seeds": np.array(batch.seeds, dtype=np.int64)}
        if batch.labels is not None:
            arrays["arr_1"] = np.array(batch.labels, dtype=np.int64)
        file = io.BytesIO()
        np.savez(file, **arrays)
        return {self.names(block, batch.seeds)[0]: file.getvalue()}

    def names(self, block: range, seeds: Sequence[int]) -> list[str]:
        return [f"{block[0]:06d}-{block[-1]:06d}.npz"]

    def read(self, folder: Path, block: range, seeds: Sequence[int]) -> Tensor:
        arrays = read_arrays(folder / self.names(block, seeds)[0])
        places = {int(seed): place for place, seed in enumerate(arrays["seeds"])}
        return torch.from_numpy(arrays["arr_0"][[places[seed] for seed in seeds]]).permute(0, 3, 1, 2)

    def present(self, folder: Path, block: range) -> set[int]:
        try:
            return set(block) & set(read_arrays(folder / self.names(block, block)[0])["seeds"].tolist())
        except (InputError, KeyError):
            return set()


STORAGES: Mapping[str, Storage] = {"png": Png(), "npz": Npz()}


def storage(name: str) -> Storage:
    configs.one_of(name, STORAGES, "storage")
    return STORAGES[name]


def read_png(path: Path) -> Tensor:
    """One image file as it is -> (C, H, W) uint8, C = 1 or 3. Raises InputError where it is none."""
    try:
        with Image.open(path) as image:
            return to_tensor(image if image.mode in ("L", "RGB") else image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable image ({error})") from error


def open_samples(folder: str | Path) -> FolderImages | ShardImages:
    """The images of a folder (of files, of shards, or of a run with one set of images) in their own size, with the
    channels of the first, in the order of their seeds. One shard, or the images asked for, are in memory.

    Raises InputError where there are none; reading one that is damaged or of another size does, too.
    """
    path = sample_folder(Path(folder))
    if not path.is_dir():
        raise InputError(f"there is no folder {path}")
    if holds_shards(path):
        shape, _ = array_header(in_order(path.glob("*.npz"))[0])
        return ShardImages(path, shape[-1], None)
    return FolderImages(path, len(read_png(image_paths(path)[0])), None)


def labels_of(folder: Path) -> Tensor | None:
    """The labels (N,) of the images in one folder of a run, in the order of `open_samples`; None where they have none.
    Those of shards are in the shards, those of PNGs in the run's records."""
    if holds_shards(folder):
        return ShardImages(folder, 3, None).labels
    labels: dict[str, int] = {}
    for path in sorted((folder.parent / "blocks").glob("*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            labels |= zip(STORAGES["png"].names(range(0), record["seeds"]), record["labels"] or [], strict=False)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(f"{path} is damaged ({error}); run the same scripts/sample.py again") from error
    found = [labels[path.name] for path in image_paths(folder) if path.name in labels]
    return torch.tensor(found) if found else None
