"""Real images for training and for statistics: torchvision's MNIST and CIFAR-10, packed .npz files, image folders."""

from __future__ import annotations

import io
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from configs import InputError

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


class Images(Protocol):
    """A set of images of one size."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> Tensor:
        """The images at `indices` -> (B, C, resolution, resolution) uint8."""
        ...


class ArrayImages:
    """Images held in memory, with their labels where there are any."""

    def __init__(self, pixels: Tensor, labels: Tensor | None = None) -> None:
        self.pixels, self.labels = pixels, labels

    def __len__(self) -> int:
        return len(self.pixels)

    def batch(self, indices: Sequence[int]) -> Tensor:
        return self.pixels[torch.as_tensor(indices)]


class FolderImages:
    """The image files below a folder, decoded when asked for: shorter side resized, then centre-cropped."""

    def __init__(self, folder: Path, channels: int, resolution: int) -> None:
        self.paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
        if not self.paths:
            raise InputError(f"there are no images ({', '.join(SUFFIXES)}) below {folder}")
        self.channels, self.resolution = channels, resolution

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Sequence[int]) -> Tensor:
        return torch.stack([self._read(self.paths[i]) for i in indices])

    def _read(self, path: Path) -> Tensor:
        try:
            with Image.open(path) as file:
                image = file.convert(MODES[self.channels])
        except OSError as error:
            raise InputError(f"{path} is not a readable image: {error}") from error
        scale = self.resolution / min(image.size)
        width, height = (max(self.resolution, round(side * scale)) for side in image.size)
        image = image.resize((width, height), Image.Resampling.LANCZOS)
        left, top = (width - self.resolution) // 2, (height - self.resolution) // 2
        return to_tensor(image.crop((left, top, left + self.resolution, top + self.resolution)))


def open_images(data: str, split: str, channels: int, resolution: int) -> ArrayImages | FolderImages:
    """The images that `data` names, at the network's size.

    data: `mnist` or `cifar10` (downloaded by torchvision into ./data), a folder of images, or an .npz file with
      `{split}_images` (N, H, W[, C]) uint8, or with JPEGs end to end in `{split}_jpeg` and `{split}_offsets` (N + 1).
    split: "train" or "test"; a folder has no splits.
    Small images are padded with black to `resolution`; channels (1 or 3) converts.
    """
    path = Path(data).expanduser()
    if data in ("mnist", "cifar10"):
        images = _torchvision(data, split, channels)
    elif path.is_dir():
        return FolderImages(path, channels, resolution)
    elif path.suffix == ".npz":
        images = _npz(path, split, channels)
    else:
        raise InputError(f"data must be mnist, cifar10, an existing image folder or an .npz file, not {data!r}")
    return ArrayImages(pad_to(images.pixels, resolution, data), images.labels)


def pad_to(pixels: Tensor, resolution: int, what: str) -> Tensor:
    """Centres images (N, C, H, W) uint8 on a black square of `resolution`."""
    height, width = pixels.shape[2:]
    if max(height, width) > resolution:
        raise InputError(f"the images of {what} are {height}x{width}, larger than the network's {resolution}")
    top, left = (resolution - height) // 2, (resolution - width) // 2
    return F.pad(pixels, (left, resolution - width - left, top, resolution - height - top))


def to_tensor(image: Image.Image) -> Tensor:
    """A PIL image of mode L or RGB -> (C, H, W) uint8."""
    return torch.from_numpy(np.array(image)).reshape(image.height, image.width, -1).permute(2, 0, 1)


def _torchvision(name: str, split: str, channels: int) -> ArrayImages:
    from torchvision import datasets  # imported here: it is slow, and only these two names need it

    dataset = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    try:
        source = dataset("data", train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name} could not be downloaded into ./data ({error}); give a folder or .npz") from error
    return _as_array(np.asarray(source.data), torch.as_tensor(source.targets), channels)


def _npz(path: Path, split: str, channels: int) -> ArrayImages:
    try:
        with np.load(path) as file:
            labels = torch.from_numpy(file[f"{split}_labels"]).long() if f"{split}_labels" in file else None
            if f"{split}_images" in file:
                return _as_array(file[f"{split}_images"], labels, channels)
            stream, offsets = file[f"{split}_jpeg"].tobytes(), file[f"{split}_offsets"]
    except (OSError, ValueError, KeyError) as error:
        raise InputError(f"{path} does not hold {split}_images, or {split}_jpeg with offsets: {error}") from error
    encoded = [stream[start:end] for start, end in itertools.pairwise(offsets)]
    decoded = [to_tensor(Image.open(io.BytesIO(jpeg)).convert(MODES[channels])) for jpeg in encoded]
    return ArrayImages(torch.stack(decoded), labels)


def _as_array(pixels: np.ndarray, labels: Tensor | None, channels: int) -> ArrayImages:
    tensor = torch.from_numpy(np.ascontiguousarray(pixels))
    tensor = tensor[:, None] if tensor.ndim == 3 else tensor.permute(0, 3, 1, 2)
    if tensor.shape[1] == 1 and channels == 3:
        tensor = tensor.expand(-1, 3, -1, -1)
    elif tensor.shape[1] == 3 and channels == 1:
        weights = torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)  # ITU-R 601 luma, as PIL's mode L
        tensor = (tensor * weights).sum(1, keepdim=True).round().to(torch.uint8)
    return ArrayImages(tensor, labels)


MODES = {1: "L", 3: "RGB"}
