"""Sets of samples as they lie on disk: folders of image files, and .npz files of OpenAI's evaluator."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from configs import InputError
from experiments.data import (
    SUFFIXES,
    ArrayImages,
    Images,
    ShardImages,
    array_header,
    in_order,
    read_arrays,
    read_image,
    to_tensor,
)

NO_SAMPLES = ("grid.png",)  # what scripts/sample.py writes beside its samples


@dataclass(frozen=True)
class ImageSet:
    """Images of one size, with a name for each."""

    name: str
    images: Images
    names: tuple[str, ...]
    shape: tuple[int, ...]  # (C, H, W)

    def __len__(self) -> int:
        return len(self.names)

    @property
    def indices(self) -> Sequence[int]:
        """The seed of every image where files are named after it, as by scripts/sample.py; else its position."""
        if all(name.isdecimal() for name in self.names):
            return [int(name) for name in self.names]
        return range(len(self))


class FileImages:
    """Image files of one size. Raises InputError for one of another size, and for a damaged one."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self.paths = paths
        read_image(paths[0], 3, str(paths[0]))
        with Image.open(paths[0]) as first:
            self.size, self.channels = first.size, 1 if first.mode in ("1", "L") else 3

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._read(self.paths[index]) for index in indices])

    def _read(self, path: Path) -> Tensor:
        image = read_image(path, self.channels, str(path))
        if image.size != self.size:
            raise InputError(f"{path} has {image.width}x{image.height} pixels and {self.paths[0].name} "
                             f"{self.size[0]}x{self.size[1]}; samples must be of one size")  # fmt: skip
        return to_tensor(image)


def open_sets(root: Path) -> list[ImageSet]:
    """The samples at `root`: an .npz file, or those of every folder from `root` down that holds some.

    Raises InputError where there are none, and for a damaged file.
    """
    if root.is_file() and root.suffix == ".npz":
        return [_npz_set(root)]
    if not root.is_dir():
        raise InputError(f"there are no samples at {root}: it is neither a folder nor an .npz file")
    folders = [root, *sorted(path for path in root.rglob("*") if path.is_dir())]
    sets = [found for folder in folders if (found := _folder_set(folder, root))]
    if not sets:
        raise InputError(f"there are no images and no .npz files in {root}")
    return sets


def npz_images(path: Path) -> ArrayImages | None:
    """The images (N, H, W, 1 or 3) uint8 in arr_0 of an .npz file; None where it has no arr_0.

    Raises InputError for a damaged file, and where arr_0 holds anything else.
    """
    pixels = read_arrays(path, "arr_0").get("arr_0")
    if pixels is None:
        return None
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] not in (1, 3) or not len(pixels):
        raise InputError(f"{path}: arr_0 must hold images (N, H, W, 1 or 3) uint8 with N > 0, "
                         f"not {pixels.shape} {pixels.dtype}")  # fmt: skip
    return ArrayImages(torch.from_numpy(pixels).permute(0, 3, 1, 2))


def _folder_set(folder: Path, root: Path) -> ImageSet | None:
    name = folder.name if folder == root else str(folder.relative_to(root))
    files = in_order(path for path in folder.iterdir() if path.is_file() and path.name not in NO_SAMPLES)
    paths = [path for path in files if path.suffix.lower() in SUFFIXES]
    if paths:
        images = FileImages(paths)
        width, height = images.size
        return ImageSet(name, images, tuple(path.stem for path in paths), (images.channels, height, width))
    shards = [path for path in files if path.suffix == ".npz"]
    return _shard_set(name, folder, shards) if shards else None


def _shard_set(name: str, folder: Path, shards: Sequence[Path]) -> ImageSet:
    shapes = {array_header(path)[0][1:] for path in shards}
    if len(shapes) > 1:
        raise InputError(f"the .npz files in {folder} hold images of different sizes; samples must be of one size")
    ((height, width, channels),) = shapes
    images = ShardImages(folder, channels, None)
    seeds = [seed for path in shards for seed in _seeds(path)]
    return ImageSet(name, images, _names(seeds, len(images)), (channels, height, width))


def _npz_set(path: Path) -> ImageSet:
    images = npz_images(path)
    if images is None:
        raise InputError(f"{path} holds no images in arr_0")
    return ImageSet(path.stem, images, _names(_seeds(path), len(images)), tuple(images.pixels.shape[1:]))


def _seeds(path: Path) -> list[int]:
    """The seeds in an .npz file; none where it does not say. Raises InputError where they are none."""
    seeds = read_arrays(path, "seeds").get("seeds", np.array([], dtype=np.int64))
    if seeds.ndim != 1 or seeds.dtype.kind not in "iu":
        raise InputError(f"{path}: seeds must be integers (N,), not {seeds.shape} {seeds.dtype}")
    return seeds.tolist()


def _names(seeds: Sequence[int], count: int) -> tuple[str, ...]:
    """Those of the files that scripts/sample.py would write; of images without known seeds, by position."""
    return tuple(f"{seed:06d}" for seed in (seeds if len(seeds) == count else range(count)))
