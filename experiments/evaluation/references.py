"""What sets of images are measured against: statistics from files, or images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor

from configs import InputError
from experiments.data import Images, data_name, open_images, read_arrays
from experiments.evaluation.evaluator import images_evaluator
from experiments.evaluation.frechet import FeatureStatistics, Gaussian, Moments
from experiments.evaluation.inception import NAME, SPATIAL
from experiments.evaluation.lsun import PREFIX, LsunImages
from experiments.evaluation.networks import POOL, FeatureNetwork
from experiments.evaluation.sets import npz_images
from experiments.runs.world import World
from models.files import write_atomically

# The keys of pytorch-fid (the first pair) and of OpenAI's evaluator (both; arr_0 holds images).
KEYS = {POOL: ("mu", "sigma"), SPATIAL: ("mu_s", "sigma_s")}
PART = 50_000  # images of a reference whose features are in memory at a time
STORED = ("mu", "sigma", "network", "sha256", "images")  # how the keys of statistics begin


@dataclass(frozen=True)
class Reference:
    """Real images in the features of one network, as far as they are known."""

    name: str
    moments: Mapping[str, Moments]  # by layer
    features: Tensor | None = None  # (N, width) of POOL, of single images, which KID, precision and recall need
    images: int | None = None  # how many the moments are of, where that is known


def open_reference(
    source: str,
    network: FeatureNetwork,
    *,
    split: str,
    shape: Sequence[int],
    batch_size: int,
    layers: Sequence[str],
    singles: bool = True,
    world: World | None = None,
) -> Reference:
    """The reference that `source` names, in the features of `network`.

    source: an .npz of statistics, of pytorch-fid (mu, sigma) or of OpenAI (mu, sigma, mu_s, sigma_s, and images in
      arr_0); an .npz of images alone (arr_0, or what `open_images` takes); a folder of images; cifar10 or mnist;
      lsun:FOLDER, an LSUN lmdb.
    split: train or test, of data that has both.
    shape: (C, H, W) of the samples, to which real images are brought.
    singles: whether the features of single images are wanted, of statistics that come with some.
    world: the processes that share the work; only the first of them has the whole reference in the end.

    Raises InputError for what is missing, damaged, or statistics of another network's features.
    """
    path = Path(source).expanduser()
    stored = read_statistics(path, network) if path.suffix == ".npz" and path.is_file() else None
    if stored is None:
        return _measured(_name(source), _images(source, split, shape), network, batch_size, layers, world)
    moments, count = stored
    features = None
    if singles and (images := npz_images(path)) is not None:
        features = images_evaluator(network, images, batch_size, [POOL], path.stem, world).features(POOL)
    return Reference(path.stem, moments, features, count)


def _measured(
    name: str, images: Images, network: FeatureNetwork, batch_size: int, layers: Sequence[str], world: World | None
) -> Reference:
    """The statistics of all images, and the features of the first PART of them: LSUN has millions."""
    moments = {layer: FeatureStatistics(network.widths[layer]) for layer in layers}
    features = None
    for start in range(0, len(images), PART):
        part = _Part(images, range(start, min(start + PART, len(images))))
        evaluator = images_evaluator(network, part, batch_size, layers, name, world)
        for layer, statistics in moments.items():
            statistics.merge(evaluator.statistics(layer))
        features = evaluator.features(POOL) if features is None else features
    return Reference(name, moments, features, len(images))


class _Part:
    """Some of the images of a set."""

    def __init__(self, images: Images, places: range) -> None:
        self.images, self.places = images, places

    def __len__(self) -> int:
        return len(self.places)

    def batch(self, indices: Sequence[int]) -> Tensor:
        return self.images.batch([self.places[index] for index in indices])


def read_statistics(path: Path, network: FeatureNetwork) -> tuple[dict[str, Gaussian], int | None] | None:
    """The moments in a file by layer, and of how many images they are; None for a file that holds none.

    Raises InputError for a damaged file, and for statistics of another network.
    """
    if not read_arrays(path, "mu"):
        return None
    arrays = {key: array for prefix in STORED for key, array in read_arrays(path, prefix).items()}
    _check_network(path, arrays, network)
    pairs = {layer: keys for layer, keys in KEYS.items() if layer in network.widths and arrays.keys() >= set(keys)}
    if POOL not in pairs:
        raise InputError(f"{path} holds mu but no sigma; statistics are mu and sigma, of sFID also mu_s and sigma_s")
    moments = {layer: _gaussian(path, network, layer, arrays) for layer in pairs}
    return moments, int(arrays["images"]) if "images" in arrays else None


def save_statistics(path: Path, reference: Reference, network: FeatureNetwork) -> None:
    """Writes the moments under the keys of pytorch-fid and OpenAI's evaluator, and which network they are of."""
    arrays = {"network": np.array(network.name), "sha256": np.array(network.sha256)}
    if reference.images is not None:
        arrays["images"] = np.array(reference.images)
    for layer, moments in reference.moments.items():
        mean, cov = KEYS[layer]
        arrays |= {mean: moments.mean, cov: moments.cov}

    def write(unfinished: Path) -> None:
        with unfinished.open("wb") as file:
            np.savez(file, **arrays)

    write_atomically(path, write)


def _images(source: str, split: str, shape: Sequence[int]) -> Images:
    path = Path(source).expanduser()
    if path.suffix == ".npz" and path.is_file() and (images := npz_images(path)) is not None:
        return images
    channels, height, resolution = shape
    if height != resolution:
        raise InputError(f"samples of {height}x{resolution} pixels need an .npz of statistics or images as reference; "
                         "other images are brought to square sizes alone")  # fmt: skip
    if source.startswith(PREFIX):
        return LsunImages(Path(source.removeprefix(PREFIX)).expanduser(), resolution)
    return open_images(source, split, channels, resolution)


def _name(source: str) -> str:
    return data_name(source.removeprefix(PREFIX))


def _check_network(path: Path, arrays: Mapping[str, np.ndarray], network: FeatureNetwork) -> None:
    """Statistics that do not say what they are of, as those of pytorch-fid and OpenAI, are of the network of FID, and
    nobody knows how its images were resized."""
    inception = network.name if network.name.startswith(NAME) else NAME
    name = str(arrays.get("network", inception))
    if name != network.name:
        raise InputError(f"{path} holds statistics in the features of {name}, not of {network.name}")
    if str(arrays.get("sha256", network.sha256)) != network.sha256:
        raise InputError(f"{path} holds statistics of {name} with other weights (sha256 {arrays['sha256']})")


def _gaussian(path: Path, network: FeatureNetwork, layer: str, arrays: Mapping[str, np.ndarray]) -> Gaussian:
    mean, cov = (arrays[key] for key in KEYS[layer])
    width = network.widths[layer]
    if mean.shape != (width,):
        raise InputError(f"{path}: {KEYS[layer][0]} has the shape {mean.shape}, not ({width},) as the features of "
                         f"{network.name}")  # fmt: skip
    try:
        return Gaussian(mean, cov)
    except (InputError, ValueError, TypeError) as error:
        raise InputError(f"{path}: {' and '.join(KEYS[layer])} are no statistics: {error}") from error
