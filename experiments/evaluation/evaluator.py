"""Features of images that come in blocks, from any number of processes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from configs import InputError
from experiments.data import Images
from experiments.evaluation.frechet import FeatureStatistics
from experiments.evaluation.networks import FeatureNetwork
from experiments.runs.world import World
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
        self.add(range(len(self), len(self) + len(images)) if indices is None else indices, features)

    def add(self, indices: Sequence[int], features: Mapping[str, Tensor]) -> None:
        """Adds features (n, width) by layer, made by the same network: of another process, say.

        Raises InputError for indices that were there before.
        """
        twice = self._seen.intersection(indices)
        if twice or len(set(indices)) != len(indices):
            raise InputError(f"image {min(twice)} is there already" if twice else "an image is there twice")
        if any(len(features[layer]) != len(indices) for layer in self.layers):
            raise InputError(f"{len(indices)} indices do not fit the number of images")
        self._seen.update(indices)
        self._blocks.append((torch.tensor(list(indices)), {layer: features[layer] for layer in self.layers}))

    def merge(self, other: Evaluator) -> None:
        """Adds the images of `other`. Raises InputError for indices that are in both, and for another network."""
        _check_network(self, other.network.sha256, "the other features")
        self.add(*other.gathered())

    def gathered(self) -> tuple[list[int], dict[str, Tensor]]:
        """Indices, ascending, and features in their order by layer: what `add` takes."""
        return sorted(self._seen), {layer: self.features(layer) for layer in self.layers}

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
        indices, features = self.gathered()
        write_safetensors(
            path, features | {"indices": torch.tensor(indices)}, {"format": FORMAT, "network": self.network.sha256}
        )

    def load(self, path: Path) -> None:
        """Adds the features in a file of `save`. Raises InputError for one that is damaged, or of another network."""
        state = reading.read(path)
        if state.metadata.get("format") != FORMAT or not {"indices", *self.layers} <= state.tensors.keys():
            raise InputError(f"{path} does not hold the features {', '.join(self.layers)} of images")
        _check_network(self, state.metadata.get("network", ""), str(path))
        self.add(state.tensors["indices"].tolist(), state.tensors)


class Evaluators:
    """An Evaluator for each strategy of a run: `run(config, observer=Evaluators(network))` measures images without a
    detour through files."""

    def __init__(self, network: FeatureNetwork, layers: Sequence[str] | None = None) -> None:
        self.network, self.layers = network, layers
        self.by_name: dict[str, Evaluator] = {}

    def __call__(self, name: str, seeds: Sequence[int], images: Tensor) -> None:
        """Takes images (B, C, H, W) uint8 of one strategy."""
        self.by_name.setdefault(name, Evaluator(self.network, self.layers)).update(images, seeds)


def images_evaluator(
    network: FeatureNetwork,
    images: Images,
    batch_size: int,
    layers: Sequence[str] | None = None,
    what: str = "images",
    world: World | None = None,
) -> Evaluator:
    """Gathers the features of all `images`, with a progress bar.

    world: the processes that share the work, every one of which must call this; None: this one alone. The first of
      them has the features of all images in the end, in the bits of a single process; the others have their shares.
    """
    world = world or World()
    evaluator = Evaluator(network, layers)
    starts = range(0, len(images), batch_size)[world.rank :: world.size]
    with world.progress(len(images), "image") as bar, world.together(while_waiting=bar.report):
        bar.set_description(f"{network.name}: {what}")
        for start in starts:
            indices = range(start, min(start + batch_size, len(images)))
            evaluator.update(images.batch(indices), indices)
            bar.update(len(indices))
    for share in (world.gather(evaluator.gathered()) or [])[1:]:
        evaluator.add(*share)
    return evaluator


def _check_network(evaluator: Evaluator, sha256: str, what: str) -> None:
    if sha256 != evaluator.network.sha256:
        raise InputError(f"{what} are those of another network than {evaluator.network.name} "
                         f"(sha256 {evaluator.network.sha256[:8]})")  # fmt: skip
