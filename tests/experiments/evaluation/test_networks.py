"""experiments/evaluation/networks.py and cifar_resnet.py: feature networks other than FID's, by their own names."""

from pathlib import Path

import numpy as np
import pytest
import torch

from configs import InputError
from experiments.evaluation.cifar_resnet import ResNet
from experiments.evaluation.networks import load_features
from experiments.training import classifier
from models.download import digest

SHARED = Path(__file__).parents[4] / "shared" / "data"
CPU = torch.device("cpu")


@pytest.fixture
def resnet(tmp_path):
    """A random ResNet-20 in the layout of the published files."""
    torch.manual_seed(0)
    network = ResNet(blocks=3).eval()
    state = {f"module.{key}": value for key, value in network.state_dict().items()}
    torch.save({"state_dict": state, "best_prec1": 91.7}, tmp_path / "resnet20.th")
    return tmp_path / "resnet20.th", network


def test_a_resnet_is_known_by_its_depth(resnet):
    path, original = resnet
    network = load_features(path, CPU)
    assert network.name == "ResNet20"
    assert network.metrics == {"pool": "FD-ResNet20"}
    assert network.sha256 == digest(path, "sha256")
    images = torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)
    features = network(images)["pool"]
    assert features.shape == (2, network.widths["pool"]) == (2, 64)
    with torch.no_grad():
        torch.testing.assert_close(original.linear(features), original(images))


def test_published_resnets_classify_cifar():
    file, data = SHARED / "cifar_resnet" / "resnet20-12fca82f.th", SHARED / "cifar10_lossless_subset.npz"
    if not (file.exists() and data.exists()):
        pytest.skip("the published ResNet-20 and CIFAR-10 are not at hand (../shared/data)")
    state = torch.load(file, weights_only=True, map_location="cpu")["state_dict"]
    network = ResNet(blocks=3)
    network.load_state_dict({key.removeprefix("module."): value for key, value in state.items()})
    with np.load(data) as arrays:
        images = torch.from_numpy(arrays["test_images"]).permute(0, 3, 1, 2)
        labels = torch.from_numpy(arrays["test_labels"])
    with torch.inference_mode():
        right = (network.eval()(images[:400]).argmax(1) == labels[:400]).float().mean().item()
    assert right > 0.88  # 91.6% on all of them


def test_the_classifier_of_digits_is_known_by_its_file():
    network = load_features(classifier.BUNDLED, CPU)
    assert network.metrics == {"pool": "FD-mnist_classifier"}
    images = torch.randint(0, 256, (2, 1, 32, 32), dtype=torch.uint8)
    expected = classifier.load().features(images.float() / 127.5 - 1)
    assert torch.equal(network(images)["pool"], expected)


def test_images_of_another_size_end_in_one_sentence(resnet):
    for path, sentence in ((resnet[0], "takes images of 3x32x32"), (classifier.BUNDLED, "takes images of 1x32x32")):
        with pytest.raises(InputError, match=f"{sentence}, not 3x16x16"):
            load_features(path, CPU)(torch.zeros(2, 3, 16, 16, dtype=torch.uint8))


def test_foreign_weights_end_in_one_sentence(resnet, tmp_path):
    torch.save({"weight": torch.zeros(3)}, tmp_path / "other.pth")
    with pytest.raises(InputError, match=r"other\.pth is neither a classifier"):
        load_features(tmp_path / "other.pth", CPU)
    with pytest.raises(InputError, match="there is no checkpoint"):
        load_features(tmp_path / "nothing.pth", CPU)
    state = torch.load(resnet[0], weights_only=True)["state_dict"]
    del state["module.bn1.weight"]
    torch.save(state, tmp_path / "partial.th")
    with pytest.raises(InputError, match=r"partial\.th is not one of the CIFAR ResNets"):
        load_features(tmp_path / "partial.th", CPU)
