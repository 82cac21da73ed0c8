"""Features of images that come in blocks, from any number of processes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from configs import InputError
from experiments.data import Images
from experiments.evaluation.networks import FeatureNetwork
from experiments.frechet import FeatureStatistics
from models import reading
from models.files import write_safetensors

FORMAT = "features/1"
CHUNK = 1024  # features that statistics take up at a time


class Evaluator:
    """Gathers the features of a set of images; `experiments.evaluation.score` says what they are worth.

    Every image has an index of its own (its seed, say), and features are used in the order of these indices: neither
    the order of blocks, nor how many processes made them, changes a metric in any bit.
    """

    def __init__(self, network: FeatureNetwork, layers: Sequence[str] | None = None) -> None:
        """layers: those to keep, None for all. They take `bytes_per_image` each in memory and in files."""
        self.network = network
        self.layers = tuple(network.widths if layers is None else layers)
        self._blocks: list[tuple[Tensor, dict[str, Tensor]]] = []  # indices (n,), and features (n, width) by layer
        self._seen: set[int] = set()

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._seen)

    @property
    def bytes_per_image(self) -> int:
        """In float32: 8 kB for Inception's pooled features, as many again for the spatial ones of sFID."""
        return 4 * sum(self.network.widths[layer] for layer in self.layers)

    def update(self, images: Tensor, indices: Sequence[int] | None = None) -> None:
        """Adds images (N, C, H, W) uint8. indices: theirs; None counts on.

        Raises InputError for images that the network does not take, and for indices that were there before.
        """
        features = self.network(images)
        self._add(range(len(self), len(self) + len(images)) if indices is None else indices, features)

    def merge(self, other: Evaluator) -> None:
        """Adds the images of `other`. Raises InputError for indices that are in both, and for another network."""
        _check_network(self, other.network.sha256, "the other features")
        for indices, features in other._blocks:
            self._add(indices.tolist(), features)

    def features(self, layer: str) -> Tensor:
        """Those of all images, in the order of their indices -> (N, width)."""
        if not self._blocks:
            return torch.empty(0, self.network.widths[layer])
        order = torch.cat([indices for indices, _ in self._blocks]).argsort()
        return torch.cat([features[layer] for _, features in self._blocks])[order]

    def statistics(self, layer: str) -> FeatureStatistics:
        """Mean and covariance of all images."""
        statistics = FeatureStatistics(self.network.widths[layer])
        for part in self.features(layer).split(CHUNK):
            statistics.update(part)
        return statistics

    def save(self, path: Path) -> None:
        """Writes the features gathered so far, of one block of a run, say, into one safetensors file."""
        order = sorted(self._seen)
        tensors = {layer: self.features(layer) for layer in self.layers} | {"indices": torch.tensor(order)}
        write_safetensors(path, tensors, {"format": FORMAT, "network": self.network.sha256})

    def load(self, path: Path) -> None:
        """Adds the features in a file of `save`. Raises InputError for one that is damaged, or of another network."""
        state = reading.read(path)
        if state.metadata.get("format") != FORMAT or not {"indices", *self.layers} <= state.tensors.keys():
            raise InputError(f"{path} does not hold the features {', '.join(self.layers)} of images")
        _check_network(self, state.metadata.get("network", ""), str(path))
        self._add(state.tensors["indices"].tolist(), state.tensors)

    def _add(self, indices: Sequence[int], features: dict[str, Tensor]) -> None:
        fresh = set(indices)
        if len(fresh) != len(indices) or fresh & self._seen:
            twice = min(fresh & self._seen, default=None)
            raise InputError(f"image {twice} was there before" if twice is not None else "an index occurs twice")
        if any(len(features[layer]) != len(indices) for layer in self.layers):
            raise InputError(f"{len(indices)} indices do not fit the number of images")
        self._seen |= fresh
        self._blocks.append((torch.tensor(list(indices)), {layer: features[layer] for layer in self.layers}))


def images_evaluator(
    network: FeatureNetwork, images: Images, batch_size: int, layers: Sequence[str] | None = None, what: str = "images"
) -> Evaluator:
    """Gathers the features of all `images`, with a progress bar."""
    evaluator = Evaluator(network, layers)
    with tqdm(total=len(images), unit="image", desc=f"{network.name}: {what}") as bar:
        for start in range(0, len(images), batch_size):
            indices = range(start, min(start + batch_size, len(images)))
            evaluator.update(images.batch(indices), indices)
            bar.update(len(indices))
    return evaluator


def _check_network(evaluator: Evaluator, sha256: str, what: str) -> None:
    if sha256 != evaluator.network.sha256:
        raise InputError(f"{what} are those of another network than {evaluator.network.name} "
                         f"(sha256 {evaluator.network.sha256[:8]})")  # fmt: skip
