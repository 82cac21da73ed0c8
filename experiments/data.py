"""Real images for training and for statistics: torchvision's MNIST and CIFAR-10, packed .npz files, image folders."""

from __future__ import annotations

import io
import itertools
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from configs import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
MODES = {1: "L", 3: "RGB"}
LUMA = torch.tensor([19595, 38470, 7471], dtype=torch.int32).view(1, 3, 1, 1)  # ITU-R 601 in 1/65536, as PIL's mode L


class Images(Protocol):
    """A set of images of one size."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Tensor:
        """The images at `indices` -> (B, C, resolution, resolution) uint8."""
        ...


class ArrayImages:
    """Images (N, C, H, W) uint8 held in memory, with their labels (N,) where there are any."""

    def __init__(self, pixels: Tensor, labels: Tensor | None = None) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int]) -> Tensor:
        return self.pixels[torch.as_tensor(indices)]


class FolderImages:
    """The image files below a folder, decoded when asked for: shorter side resized, then centre-cropped."""

    def __init__(self, folder: Path, channels: int, resolution: int) -> None:
        self.paths = image_paths(folder)
        self.channels, self.resolution = channels, resolution

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._read(self.paths[i]) for i in indices])

    def _read(self, path: Path) -> Tensor:
        image = read_image(path, self.channels, str(path))
        scale = self.resolution / min(image.size)
        width, height = (max(self.resolution, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        left, top = (width - self.resolution) // 2, (height - self.resolution) // 2
        return to_tensor(image.crop((left, top, left + self.resolution, top + self.resolution)))


def open_images(data: str, split: str, channels: int, resolution: int) -> ArrayImages | FolderImages:
    """The images that `data` names, at the network's size.

    data: `mnist` or `cifar10` (downloaded by torchvision into ./data), a folder of images, or an .npz file with
      `{split}_images` (N, H, W[, C]) uint8, or with JPEGs end to end in `{split}_jpeg` and `{split}_offsets` (N + 1);
      `{split}_labels` (N,) where there are any.
    split: "train" or "test"; a folder has no splits.
    Small images are padded with black to `resolution`; channels (1 or 3) converts.

    Raises InputError, in one sentence, for data that is missing, damaged, empty or larger than the network's images.
    """
    if channels not in MODES:
        raise InputError(f"images have 1 or 3 channels, but the network takes {channels}")
    path = Path(data).expanduser()
    if data in ("mnist", "cifar10"):
        images = _torchvision(data, split, channels)
    elif path.is_dir():
        return FolderImages(path, channels, resolution)
    elif path.suffix == ".npz" and path.is_file():
        images = _npz(path, split, channels)
    else:
        raise InputError(
            f"data must be mnist, cifar10, an existing image folder or an existing .npz file, not {data!r}"
        )
    return ArrayImages(pad_to(images.pixels, resolution, data), images.labels)


def data_name(data: str) -> str:
    """What training records call the data: its name, without where it lies."""
    path = Path(data).expanduser().absolute()
    return path.stem if path.suffix == ".npz" else path.name


def image_paths(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted. Raises InputError where there are none."""
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(f"there are no images ({', '.join(SUFFIXES)}) below {folder}")
    return paths


def read_image(file: Path | BinaryIO, channels: int, what: str) -> Image.Image:
    """One image file, decoded and converted to `channels`. Raises InputError, naming `what`, where it is none."""
    try:
        with Image.open(file) as image:
            return image.convert(MODES[channels])
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f"{what} is not a readable image ({error})") from error


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image of mode L or RGB -> (C, H, W) uint8."""
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1)


def pad_to(pixels: Tensor, resolution: int, what: str) -> Tensor:
    """Centres images (N, C, H, W) uint8 on a black square of `resolution`."""
    height, width = pixels.shape[2:]
    if max(height, width) > resolution:
        raise InputError(f"the images of {what} are {height}x{width}, larger than the network's {resolution}")
    top, left = (resolution - height) // 2, (resolution - width) // 2
    return F.pad(pixels, (left, resolution - width - left, top, resolution - height - top))


def _torchvision(name: str, split: str, channels: int) -> ArrayImages:
    from torchvision import datasets  # imported here: it is slow, and only these two names need it

    dataset = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    try:
        source = dataset("data", train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name} could not be downloaded into ./data ({error}); give a folder or .npz") from error
    return ArrayImages(_to_channels(np.asarray(source.data), channels, name), torch.as_tensor(source.targets))


def _npz(path: Path, split: str, channels: int) -> ArrayImages:
    prefix = f"{split}_"
    try:
        with np.load(path) as file:
            arrays = {key.removeprefix(prefix): file[key] for key in file.files if key.startswith(prefix)}
    except (OSError, ValueError, EOFError, AttributeError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{path} is truncated or not an .npz file of plain arrays ({error})") from error
    labels = torch.from_numpy(arrays["labels"]).long() if "labels" in arrays else None
    if "images" in arrays:
        return ArrayImages(_to_channels(arrays["images"], channels, f"{path}: {split}_images"), labels)
    if "jpeg" in arrays and "offsets" in arrays:
        return ArrayImages(_decode(arrays["jpeg"], arrays["offsets"], channels, f"{path}: {split}_jpeg"), labels)
    raise InputError(f"{path} holds neither {split}_images, nor {split}_jpeg with {split}_offsets")


def _decode(stream: np.ndarray, offsets: np.ndarray, channels: int, what: str) -> Tensor:
    """JPEGs end to end, image i = stream[offsets[i]:offsets[i + 1]] -> (N, channels, H, W) uint8."""
    encoded = [io.BytesIO(stream[start:end].tobytes()) for start, end in itertools.pairwise(offsets)]
    images = [to_tensor(read_image(file, channels, f"{what}[{i}]")) for i, file in enumerate(encoded)]
    if not images or any(image.shape != images[0].shape for image in images):
        raise InputError(f"{what} must hold images, all of one size")
    return torch.stack(images)


def _to_channels(pixels: np.ndarray, channels: int, what: str) -> Tensor:
    """Pixels (N, H, W[, 1 or 3]) uint8 -> (N, channels, H, W) uint8."""
    array = pixels[..., None] if pixels.ndim == 3 else pixels
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in MODES or not len(array):
        raise InputError(f"{what} must be (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8 with N > 0, "
                         f"not {pixels.shape} {pixels.dtype}")  # fmt: skip
    tensor = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)
    if tensor.shape[1] == 1:
        return tensor.expand(-1, channels, -1, -1)
    return tensor if channels == 3 else ((tensor * LUMA).sum(1, keepdim=True) + 2**15 >> 16).to(torch.uint8)
