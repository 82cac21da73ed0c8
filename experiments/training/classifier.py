"""A small classifier of handwritten digits: what samples look like, and features to compare sets of images in."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import configs
from configs import InputError
from experiments.data import Images
from models import native, reading
from models.files import write_safetensors

FORMAT = "classifier/1"
BUNDLED = "checkpoints/mnist_classifier.safetensors"
DIGITS = (1, 32, 32)  # the images that the bundled one takes
CONFIDENT = 0.9  # probability above which an image counts as one of a class


@dataclass(frozen=True)
class ClassifierConfig:
    """The architecture: 3x3 convolutions that each halve the resolution, one hidden layer, one logit per class."""

    resolution: int = 32
    channels: list[int] = field(default_factory=lambda: [32, 64, 64])  # of each convolution
    features: int = 64  # width of the hidden, penultimate layer
    num_classes: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "channels", tuple(self.channels))
        if self.resolution % 2 ** len(self.channels):
            raise InputError(f"{len(self.channels)} convolutions cannot halve a resolution of {self.resolution}")


class Classifier(nn.Module):
    """Images (B, 1, resolution, resolution) in [-1, 1] -> logits (B, num_classes)."""

    def __init__(self, config: ClassifierConfig) -> None:
        super().__init__()
        self.config = config
        self.record: Mapping[str, Any] = {}  # of its training, as stored in the checkpoint
        widths = (1, *config.channels)
        self.convs = nn.Sequential(*(_conv(*pair) for pair in itertools.pairwise(widths)))
        cells = (config.resolution // 2 ** len(config.channels)) ** 2
        self.hidden = nn.Linear(cells * widths[-1], config.features)
        self.head = nn.Linear(config.features, config.num_classes)

    def features(self, x: Tensor) -> Tensor:
        """The penultimate layer, after its ReLU -> (B, features)."""
        return self.hidden(self.convs(x).flatten(1)).relu()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


class Prediction(NamedTuple):
    """What a classifier makes of N images."""

    probabilities: Tensor  # (N, num_classes)
    features: Tensor  # (N, features)

    @property
    def confidence(self) -> Tensor:
        """The probability of each image's likeliest class -> (N,)."""
        return self.probabilities.amax(1)

    @property
    def confident(self) -> Tensor:
        """Which images have a class above CONFIDENT -> (N,) bool."""
        return self.confidence > CONFIDENT

    @property
    def classes(self) -> Tensor:
        """Each image's likeliest class -> (N,)."""
        return self.probabilities.argmax(1)


@torch.inference_mode()
def predict(network: Classifier, images: Images, batch_size: int = 500) -> Prediction:
    """Probabilities and features of all `images`."""
    features = []
    for start in range(0, len(images), batch_size):
        pixels = images.batch(range(start, min(start + batch_size, len(images))))
        features.append(network.features(pixels.float() / 127.5 - 1))
    together = torch.cat(features)
    return Prediction(network.head(together).softmax(1), together)


def save(network: Classifier, path: Path) -> None:
    """Writes weights, architecture and training record into one safetensors file."""
    metadata = {
        "format": FORMAT,
        "network": json.dumps(asdict(network.config)),
        "training": json.dumps(network.record),
    }
    write_safetensors(path, network.state_dict(), metadata)


def load(path: str | Path = BUNDLED) -> Classifier:
    """Reads what `save` wrote -> the network in eval mode; a relative path is also looked for in the project.

    Raises InputError, in one sentence, for a file that is missing, damaged or not a classifier.
    """
    state = reading.read(Path(path) if Path(path).exists() else configs.ROOT / path)
    if state.metadata.get("format") != FORMAT:
        raise InputError(f"{path} is not a classifier; scripts/train_classifier.py makes one")
    try:
        architecture, training = native.record(state, "network"), native.record(state, "training")
    except InputError as error:
        raise InputError(f"{path} is damaged: {error}") from error
    if not isinstance(architecture, dict) or not isinstance(training, dict):
        raise InputError(f"{path} is damaged: its metadata does not say what the network is and how it was trained")
    network = Classifier(configs.parse(ClassifierConfig, architecture, where=f"{path}: its metadata"))
    try:
        network.load_state_dict(state.tensors)
    except RuntimeError as error:
        raise InputError(f"{path} does not hold the weights its metadata promises ({error})") from error
    network.record = training
    return network.eval().requires_grad_(False)


def _conv(in_channels: int, out_channels: int) -> nn.Module:
    conv = nn.Conv2d(in_channels, out_channels, 3, stride=2, padding=1, bias=False)  # the norm has the bias
    return nn.Sequential(conv, nn.BatchNorm2d(out_channels), nn.ReLU())
