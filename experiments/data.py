"""Real images for training and for statistics: torchvision's MNIST and CIFAR-10, packed .npz files, image folders."""

from __future__ import annotations

import bisect
import io
import itertools
import zipfile
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from configs import InputError
from experiments.images import to_image

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
    """The image files below a folder, decoded when asked for: shorter side resized, then centre-cropped.

    resolution: None leaves every image its size, which must then be the same for all.
    """

    def __init__(self, folder: Path, channels: int, resolution: int | None) -> None:
        self.paths = image_paths(folder)
        self.channels, self.resolution = channels, resolution

    def __len__(self) -> int:
        return len(self.paths)

    def batch(self, indices: Sequence[int]) -> Tensor:
        return _stack([self._read(self.paths[i]) for i in indices], self.paths[0].parent)

    def _read(self, path: Path) -> Tensor:
        image = read_image(path, self.channels, str(path))
        return to_tensor(image if self.resolution is None else crop_to(image, self.resolution))


class ShardImages:
    """The images in a folder of .npz shards, as `scripts/sample.py storage=npz` leaves them: arr_0 (n, H, W, C) uint8
    each, arr_1 (n,) where there are labels. One shard is held at a time; images of another size than `resolution` are
    resized and cropped as those of image folders are (None: none are)."""

    def __init__(self, folder: Path, channels: int, resolution: int | None) -> None:
        self.folder, self.paths = folder, in_order(folder.glob("*.npz"))
        self.channels, self.resolution = channels, resolution
        sizes = [array_header(path)[0][0] for path in self.paths]
        self.starts = list(itertools.accumulate(sizes, initial=0))
        self._held: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return self.starts[-1]

    @property
    def labels(self) -> Tensor | None:
        """The labels (N,) of all images; None where the shards have none."""
        parts = [read_arrays(path, "arr_1").get("arr_1") for path in self.paths]
        if any(part is None for part in parts):
            return None
        return torch.cat([_to_labels(part, f"{path}: arr_1") for path, part in zip(self.paths, parts, strict=True)])

    def batch(self, indices: Sequence[int]) -> Tensor:
        return _stack([self._image(int(i)) for i in indices], self.folder)

    def _image(self, index: int) -> Tensor:
        number = bisect.bisect_right(self.starts, index) - 1
        if self._held is None or self._held[0] != number:
            self._held = number, self._shard(self.paths[number])
        return self._held[1][index - self.starts[number]]

    def _shard(self, path: Path) -> Tensor:
        pixels = to_channels(read_arrays(path, "arr_0")["arr_0"], self.channels, f"{path}: arr_0")
        if self.resolution is None or pixels.shape[2:] == (self.resolution, self.resolution):
            return pixels
        return torch.stack([to_tensor(crop_to(to_image(image), self.resolution)) for image in pixels])


def open_images(data: str, split: str, channels: int, resolution: int) -> Images:
    """The images that `data` names, at the network's size.

    data: `mnist` or `cifar10` (downloaded by torchvision into ./data), a folder of images or of the .npz shards that
      scripts/sample.py writes, the output folder of one of its runs with a single set of images, or an .npz file with
      `{split}_images` (N, H, W[, C]) uint8, or with JPEGs end to end in `{split}_jpeg` and `{split}_offsets` (N + 1),
      `{split}_labels` (N,) where there are any; or of samples, arr_0 (N, H, W[, C]) uint8 and arr_1 (N,).
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
        return open_folder(path, channels, resolution)
    elif path.suffix == ".npz" and path.is_file():
        images = _npz(path, split, channels)
    else:
        raise InputError(
            f"data must be mnist, cifar10, an existing image folder or an existing .npz file, not {data!r}"
        )
    return ArrayImages(pad_to(images.pixels, resolution, data), images.labels)


def open_folder(path: Path, channels: int, resolution: int) -> FolderImages | ShardImages:
    """The images of one folder: files, shards, or those of a run that has a single set of them."""
    folder = sample_folder(path)
    return (ShardImages if holds_shards(folder) else FolderImages)(folder, channels, resolution)


def sample_folder(path: Path) -> Path:
    """Where the images are: `path` itself, or of the output folder of a run the one folder with images in it.

    Raises InputError where a run has several."""
    if not (path / "run.json").is_file():
        return path
    folders = sorted(inner for inner in path.iterdir() if inner.is_dir() and inner.name != "blocks")
    if len(folders) != 1:
        names = ", ".join(folder.name for folder in folders)
        raise InputError(f"{path} is a run with {len(folders)} sets of images; name the folder of one ({names})")
    return folders[0]


def holds_shards(folder: Path) -> bool:
    return any(folder.glob("*.npz"))


def data_name(data: str) -> str:
    """What training records call the data: its name, without where it lies."""
    path = Path(data).expanduser().absolute()
    return path.stem if path.suffix == ".npz" else path.name


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Files sorted by folder and name, numbers by their size: those that are named after seeds in the order of seeds,
    which have more than six digits from a million on."""
    return sorted(paths, key=lambda path: (path.parent, len(path.stem), path.name))


def image_paths(folder: Path) -> list[Path]:
    """The image files below `folder`, sorted. Raises InputError where there are none, or no such folder."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    paths = in_order(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
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


def crop_to(image: Image.Image, resolution: int) -> Image.Image:
    """Resizes the shorter side to `resolution`, then cuts out the central square."""
    scale = resolution / min(image.size)
    width, height = (max(resolution, round(side * scale)) for side in image.size)
    image = image.resize((width, height), Image.Resampling.LANCZOS)
    left, top = (width - resolution) // 2, (height - resolution) // 2
    return image.crop((left, top, left + resolution, top + resolution))


def pad_to(pixels: Tensor, resolution: int, what: str) -> Tensor:
    """Centres images (N, C, H, W) uint8 on a black square of `resolution`."""
    height, width = pixels.shape[2:]
    if max(height, width) > resolution:
        raise InputError(f"the images of {what} are {height}x{width}, larger than the network's {resolution}")
    top, left = (resolution - height) // 2, (resolution - width) // 2
    return F.pad(pixels, (left, resolution - width - left, top, resolution - height - top))


def _stack(images: Sequence[Tensor], folder: Path) -> Tensor:
    sizes = {tuple(image.shape[1:]) for image in images}
    if len(sizes) > 1:
        raise InputError(f"the images in {folder} are of several sizes ({sorted(sizes)}); a set must be of one")
    return torch.stack(list(images))


def _torchvision(name: str, split: str, channels: int) -> ArrayImages:
    from torchvision import datasets  # imported here: it is slow, and only these two names need it

    dataset = {"mnist": datasets.MNIST, "cifar10": datasets.CIFAR10}[name]
    try:
        source = dataset("data", train=split == "train", download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{name} could not be downloaded into ./data ({error}); give a folder or .npz") from error
    return ArrayImages(to_channels(np.asarray(source.data), channels, name), torch.as_tensor(source.targets))


UNREADABLE = (OSError, ValueError, EOFError, AttributeError, KeyError, zipfile.BadZipFile, zlib.error)


def read_arrays(path: Path, prefix: str = "") -> dict[str, np.ndarray]:
    """The arrays of an .npz file whose names start with `prefix`. Raises InputError for a damaged file."""
    try:
        with np.load(path) as file:
            return {key: file[key] for key in file.files if key.startswith(prefix)}
    except UNREADABLE as error:
        raise InputError(f"{path} is truncated or not an .npz file of plain arrays ({error})") from error


def array_header(path: Path, name: str = "arr_0") -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of one array of an .npz file, without reading it. Raises InputError for a damaged file."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(f"{name}.npy") as file:
            version = np.lib.format.read_magic(file)
            read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}[version]
            shape, _, dtype = read(file)
    except UNREADABLE as error:
        raise InputError(f"{path} is truncated or no .npz file with {name} ({error})") from error
    if len(shape) != 4 or dtype != np.uint8:
        raise InputError(f"{path}: {name} must be (N, H, W, C) uint8, not {shape} {dtype}")
    return shape, dtype


def _npz(path: Path, split: str, channels: int) -> ArrayImages:
    prefix = f"{split}_"
    arrays = {key.removeprefix(prefix): array for key, array in read_arrays(path, prefix).items()}
    labels = _to_labels(arrays["labels"], f"{path}: {split}_labels") if "labels" in arrays else None
    if "images" in arrays:
        return ArrayImages(to_channels(arrays["images"], channels, f"{path}: {split}_images"), labels)
    if "jpeg" in arrays and "offsets" in arrays:
        return ArrayImages(_decode(arrays["jpeg"], arrays["offsets"], channels, f"{path}: {split}_jpeg"), labels)
    samples = read_arrays(path, "arr_")  # which belong to no split
    if "arr_0" in samples:
        labels = _to_labels(samples["arr_1"], f"{path}: arr_1") if "arr_1" in samples else None
        return ArrayImages(to_channels(samples["arr_0"], channels, f"{path}: arr_0"), labels)
    raise InputError(f"{path} holds neither {split}_images, nor {split}_jpeg with {split}_offsets, nor arr_0")


def _to_labels(labels: np.ndarray, what: str) -> Tensor:
    """Labels (N,) of any integer type -> (N,) int64."""
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise InputError(f"{what} must be integers (N,), not {labels.shape} {labels.dtype}")
    return torch.from_numpy(labels.astype(np.int64))


def _decode(stream: np.ndarray, offsets: np.ndarray, channels: int, what: str) -> Tensor:
    """JPEGs end to end, image i = stream[offsets[i]:offsets[i + 1]] -> (N, channels, H, W) uint8."""
    encoded = [io.BytesIO(stream[start:end].tobytes()) for start, end in itertools.pairwise(offsets)]
    images = [to_tensor(read_image(file, channels, f"{what}[{i}]")) for i, file in enumerate(encoded)]
    if not images or any(image.shape != images[0].shape for image in images):
        raise InputError(f"{what} must hold images, all of one size")
    return torch.stack(images)


def to_channels(pixels: np.ndarray, channels: int, what: str) -> Tensor:
    """Pixels (N, H, W[, 1 or 3]) uint8 -> (N, channels, H, W) uint8."""
    array = pixels[..., None] if pixels.ndim == 3 else pixels
    if array.dtype != np.uint8 or array.ndim != 4 or array.shape[3] not in MODES or not len(array):
        raise InputError(f"{what} must be (N, H, W), (N, H, W, 1) or (N, H, W, 3) uint8 with N > 0, "
                         f"not {pixels.shape} {pixels.dtype}")  # fmt: skip
    tensor = torch.from_numpy(np.ascontiguousarray(array)).permute(0, 3, 1, 2)
    if tensor.shape[1] == 1:
        return tensor.expand(-1, channels, -1, -1)
    return tensor if channels == 3 else ((tensor * LUMA).sum(1, keepdim=True) + 2**15 >> 16).to(torch.uint8)
