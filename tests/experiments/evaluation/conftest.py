"""A feature network that takes milliseconds, under the name of FID's."""

import pytest
import torch
from torch import Tensor

from experiments.evaluation.inception import NAME
from experiments.evaluation.networks import FeatureNetwork

WIDTHS = {"pool": 12, "spatial": 6}


def toy_features(images: Tensor) -> dict[str, Tensor]:
    """A fixed random layer of the pixels, whatever their number."""
    flat = images.expand(-1, 3, -1, -1).flatten(1).float() / 255
    generator = torch.Generator().manual_seed(0)
    return {
        layer: (flat @ torch.randn(flat.shape[1], width, generator=generator)).relu() for layer, width in WIDTHS.items()
    }


@pytest.fixture
def toy() -> FeatureNetwork:
    return FeatureNetwork(
        name=NAME,
        sha256="0" * 64,
        widths=WIDTHS,
        metrics={"pool": "FID", "spatial": "sFID"},
        extract=toy_features,
        head=torch.randn(5, WIDTHS["pool"], generator=torch.Generator().manual_seed(1)),
    )


@pytest.fixture
def pictures():
    """pictures(seed, count) -> images (count, 3, 8, 8) uint8."""

    def make(seed: int, count: int = 60, channels: int = 3) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        return torch.randint(0, 256, (count, channels, 8, 8), dtype=torch.uint8, generator=generator)

    return make
