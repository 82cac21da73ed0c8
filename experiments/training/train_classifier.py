"""Training the classifier of digits, also on what is no digit."""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from configs import InputError
from experiments.data import ArrayImages, data_name, open_images
from experiments.training.classifier import Classifier, ClassifierConfig, predict, save
from experiments.training.trainer import check_seed
from models.files import check_writable

SHIFT = 2  # pixels; the border that padding 28x28 digits to 32x32 leaves
GRAIN = 0.1  # the largest standard deviation of the noise on digits, which samples are seldom free of
TILE = 8  # pixels


@dataclass(frozen=True)
class TrainClassifierConfig:
    """One training of the classifier: Adam, one cycle of the learning rate."""

    data: str = "mnist"  # mnist, or an .npz file with {train,test}_images and _labels
    epochs: int = 6
    batch_size: int = 128  # real digits
    # Half as many images that are no digits are added to each batch. Without them it is the usual classifier, which is
    # sure of much that nobody can read.
    non_digits: bool = True
    learning_rate: float = 3e-3  # peak
    seed: int = 0
    out: str = "outputs/mnist_classifier.safetensors"

    def __post_init__(self) -> None:
        for name, least in (("epochs", 1), ("batch_size", 8)):
            if getattr(self, name) < least:
                raise InputError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 < self.learning_rate < math.inf:
            raise InputError(f"learning_rate must be above 0 and finite, not {self.learning_rate}")
        check_seed(self.seed)


def train_classifier(config: TrainClassifierConfig) -> Classifier:
    """Trains on the training split, measures on the test split, and writes config.out.

    Raises InputError for data that cannot be read or have no labels, OSError before the first step where config.out
    cannot be written.
    """
    check_writable(Path(config.out))
    start = time.process_time()
    architecture = ClassifierConfig()
    train, test = (_labelled(config.data, split, architecture) for split in ("train", "test"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network = Classifier(architecture)
        _optimise(network, train, config)
    network.eval()
    network.record = {
        **asdict(config),
        "data": data_name(config.data),
        "train_images": len(train),
        "test_images": len(test),
        **_measure(network, test),
        "cpu_minutes": round((time.process_time() - start) / 60, 1),
        "torch": torch.__version__,
    }
    del network.record["out"]
    save(network, Path(config.out))
    return network


def add_non_digits(x: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Digits x (B, 1, H, W) in [-1, 1], target (B, classes) -> the same and B/2 images more that are no digits.

    A classifier that has only seen digits is sure of its class even for noise. Training it to give such images no
    class (Hendrycks et al. 2019, outlier exposure) makes its confidence tell something. Half of the added images are
    put together of two halves of digits, with the target half and half; a quarter has its tiles shuffled, and a
    quarter is noise of any strength down to a black image, both with the uniform target.
    """
    eighth = len(x) // 8
    first, second = x[: 2 * eighth], x.flip(0)[: 2 * eighth]
    rows, columns = first[:eighth].clone(), first[eighth:].clone()
    middle = x.shape[-1] // 2
    rows[:, :, middle:] = second[:eighth, :, middle:]
    columns[..., middle:] = second[eighth:, ..., middle:]
    halves = (target + target.flip(0))[: 2 * eighth] / 2
    noise = 2 * torch.rand(eighth, 1, 1, 1) * torch.rand(eighth, *x.shape[1:]) - 1
    uniform = torch.full((2 * eighth, target.shape[1]), 1 / target.shape[1])
    return torch.cat([x, rows, columns, shuffle_tiles(x[:eighth]), noise]), torch.cat([target, halves, uniform])


def shuffle_tiles(x: Tensor) -> Tensor:
    """Every image (B, 1, H, W) cut into squares of TILE pixels, put together in random order."""
    tiles = F.unfold(x, TILE, stride=TILE)  # (B, TILE², number of tiles)
    order = torch.rand(len(x), 1, tiles.shape[2]).argsort(2).expand_as(tiles)
    return F.fold(tiles.gather(2, order), x.shape[2:], TILE, stride=TILE)


def _optimise(network: Classifier, images: ArrayImages, config: TrainClassifierConfig) -> None:
    optimizer = torch.optim.Adam(network.parameters(), lr=config.learning_rate)
    steps = -(-len(images) // config.batch_size)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, config.learning_rate, config.epochs * steps, pct_start=0.1)
    for epoch in range(config.epochs):
        order = torch.randperm(len(images)).split(config.batch_size)
        for indices in tqdm(order, desc=f"epoch {epoch + 1} of {config.epochs}", unit="batch"):
            x = images.batch(indices).float() / 127.5 - 1
            x = x.roll(torch.randint(-SHIFT, SHIFT + 1, (2,)).tolist(), (2, 3))
            x = (x + GRAIN * torch.rand(len(x), 1, 1, 1) * torch.randn_like(x)).clamp(-1, 1)
            target = F.one_hot(images.labels[indices], network.config.num_classes).float()
            if config.non_digits:
                x, target = add_non_digits(x, target)
            loss = F.cross_entropy(network(x), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            cycle.step()


def _measure(network: Classifier, test: ArrayImages) -> dict[str, float]:
    """The test accuracy, and what the judge of samples says of real digits."""
    prediction = predict(network, test)
    return {
        "test_accuracy": round((prediction.classes == test.labels).float().mean().item(), 4),
        "test_confident": round(prediction.confident.float().mean().item(), 4),
        "test_confidence": round(prediction.confidence.mean().item(), 4),
    }


def _labelled(data: str, split: str, architecture: ClassifierConfig) -> ArrayImages:
    images = open_images(data, split, 1, architecture.resolution)
    labels = getattr(images, "labels", None)
    if labels is None:
        raise InputError(f"{data} has no {split} labels; a classifier needs mnist, or an .npz file with {split}_labels")
    if len(labels) != len(images) or labels.min() < 0 or labels.max() >= architecture.num_classes:
        raise InputError(
            f"the {split}_labels of {data} must be one class per image, 0 to {architecture.num_classes - 1}"
        )
    return images
