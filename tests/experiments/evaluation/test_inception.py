"""experiments/evaluation/inception.py: our figures are torch-fidelity's, on the same images and the same weights.

The weights are random (He et al. 2015), which keeps features of a size that tells.
"""

from urllib.error import URLError

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from torch import nn
from torch.nn import functional
from torch.utils.data import Dataset

from configs import InputError
from experiments.evaluation.evaluator import Evaluator
from experiments.evaluation.frechet import FeatureStatistics, Gaussian, frechet_distance
from experiments.evaluation.inception import is_published, load_inception, spatial_features
from experiments.evaluation.references import Reference, read_statistics, save_statistics
from experiments.evaluation.scores import score

torch_fidelity = pytest.importorskip("torch_fidelity")
COUNT = 12  # images of each set
CPU = torch.device("cpu")


class Pictures(Dataset):
    """Blots of colour: images that differ in more than their noise."""

    def __init__(self, seed: int, size: int, contrast: float) -> None:
        generator = torch.Generator().manual_seed(seed)
        coarse = 128 + 255 * contrast * (torch.rand(COUNT, 3, 4, 4, generator=generator) - 0.5)
        self.images = nn.functional.interpolate(coarse, size, mode="bicubic").clamp(0, 255).to(torch.uint8)

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.images[index]


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of random weights, under torch-fidelity's keys."""
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    class Unloaded(FeatureExtractorInceptionV3):
        def load_state_dict(self, state):
            pass

    path = tmp_path_factory.mktemp("inception") / "random.pth"
    torch.save({}, path)
    torch.manual_seed(0)
    network = Unloaded("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(path))
    for module in network.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    torch.save(network.state_dict(), path)
    return path


@pytest.fixture(scope="module")
def torch_fidelitys_network(weights):
    from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

    return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"], feature_extractor_weights_path=str(weights))


@pytest.fixture(scope="module")
def network(weights):
    return load_inception(weights, CPU)


@pytest.mark.parametrize("side", [32, 256, 299])
def test_images_are_resized_as_asked(weights, side):
    """Under `pytorch` the first convolution sees what pytorch-fid's does, and under `tensorflow` something else."""
    images = torch.randint(0, 256, (2, 3, side, side), generator=torch.Generator().manual_seed(0)).byte()
    seen, convolution = [], torch.nn.Conv2d.forward

    def watched(module, x):
        seen.append(x)
        return convolution(module, x)

    wanted = functional.interpolate(images / 255, (299, 299), mode="bilinear", align_corners=False) * 2 - 1
    features = {}
    for resize in ("pytorch", "tensorflow"):
        network = load_inception(weights, CPU, resize)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch.nn.Conv2d, "forward", watched)
            seen.clear()
            features[resize] = network(images)["pool"]
        assert torch.allclose(seen[0], wanted, atol=1e-6, rtol=0) == (resize == "pytorch")
    assert not torch.allclose(features["pytorch"], features["tensorflow"], rtol=1e-4)


def test_the_resize_is_part_of_the_network_s_name(weights, network, tmp_path):
    """So statistics under one are refused under the other; those of others, who do not say, are taken."""
    other = load_inception(weights, CPU, "pytorch")
    moments = {"pool": Gaussian(np.zeros(2048), np.eye(2048))}
    save_statistics(tmp_path / "ours.npz", Reference("real", moments), network)
    with pytest.raises(InputError, match="in the features of inception-v3-compat, not of inception-v3-compat-pytorch"):
        read_statistics(tmp_path / "ours.npz", other)
    np.savez(tmp_path / "theirs.npz", mu=np.zeros(2048), sigma=np.eye(2048))
    for one in (network, other):
        assert set(read_statistics(tmp_path / "theirs.npz", one)[0]) == {"pool"}


@pytest.fixture(scope="module")
def sets():
    return Pictures(0, 32, contrast=1), Pictures(1, 40, contrast=0.3)


@pytest.fixture(scope="module")
def evaluators(network, sets):
    gathered = []
    for pictures in sets:
        evaluator = Evaluator(network)
        for part in pictures.images.split(COUNT // 2):
            evaluator.update(part)
        gathered.append(evaluator)
    return gathered


@pytest.fixture(scope="module")
def theirs(weights, sets):
    """What torch-fidelity makes of the same images, from end to end."""
    return torch_fidelity.calculate_metrics(
        input1=sets[0], input2=sets[1], isc=True, fid=True, kid=True, prc=True, cuda=False, cache=False, verbose=False,
        save_cpu_ram=True, batch_size=COUNT // 2, kid_subset_size=COUNT, feature_extractor="inception-v3-compat",
        feature_extractor_weights_path=str(weights),
    )  # fmt: skip


@pytest.fixture(scope="module")
def ours(evaluators):
    samples, real = evaluators
    moments = {layer: real.statistics(layer) for layer in real.layers}
    return score(samples, Reference("real", moments, real.features("pool"), COUNT), ["fid", "sfid", "is", "kid", "prc"])


def centred(x: torch.Tensor) -> np.ndarray:
    """A with Aᵀ A = the covariance of the rows of x."""
    y = x.double().numpy()
    return (y - y.mean(0)) / np.sqrt(len(y) - 1)


def low_rank_distance(x: torch.Tensor, y: torch.Tensor) -> float:
    """The Fréchet distance of fewer images than features: tr (Aᵀ A Bᵀ B)^½ is the sum of the singular values of A Bᵀ,
    a matrix of one row and column per image, whose rank is full but for the means."""
    a, b = centred(x), centred(y)
    root = np.linalg.svd(a @ b.T, compute_uv=False).sum()
    return np.square((x.double().mean(0) - y.double().mean(0)).numpy()).sum() + (a**2).sum() + (b**2).sum() - 2 * root


# --- features


def test_pooled_features_are_torch_fidelitys_in_every_bit(torch_fidelitys_network, evaluators, sets):
    part = sets[0].images[: COUNT // 2]
    (theirs,) = torch_fidelitys_network(part)
    assert torch.equal(evaluators[0].features("pool")[: COUNT // 2], theirs)


def test_spatial_features_are_openais(torch_fidelitys_network, evaluators, sets):
    """mixed_6/conv:0[..., :7] of TensorFlow's graph, step by step: 768 channels at 17x17 enter the third of the four
    blocks that keep both, and its 1x1 convolution is followed by batch norm and ReLU."""
    from torch_fidelity.interpolate_compat_tensorflow import interpolate_bilinear_2d_like_tensorflow1x

    net, x = torch_fidelitys_network, sets[0].images[:2].float()
    x = (interpolate_bilinear_2d_like_tensorflow1x(x, size=(299, 299), align_corners=False) - 128) / 128
    for name in ("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1", "Conv2d_4a_3x3"):
        x = getattr(net, name)(x)
    for name in ("MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b", "Mixed_6c"):
        x = getattr(net, name)(x)
    assert x.shape == (2, 768, 17, 17)
    conv, norm = net.Mixed_6d.branch1x1.conv.weight[:7, :, 0, 0], net.Mixed_6d.branch1x1.bn
    y = torch.einsum("oc,bchw->bhwo", conv, x)  # channels last, as in TensorFlow
    y = (y - norm.running_mean[:7]) / (norm.running_var[:7] + norm.eps).sqrt() * norm.weight[:7] + norm.bias[:7]
    expected = y.clamp(min=0).reshape(2, 2023)
    torch.testing.assert_close(evaluators[0].features("spatial")[:2], expected, rtol=1e-4, atol=1e-5)


def test_spatial_features_have_channels_last():
    x = torch.arange(192 * 17 * 17).view(1, 192, 17, 17)
    row = spatial_features(x)[0]
    assert row.shape == (2023,)
    assert row[(5 * 17 + 11) * 7 + 3] == x[0, 3, 5, 11]


def test_grey_images_are_taken_as_coloured_ones(network, sets):
    grey = sets[0].images[:1, :1]
    assert torch.equal(network(grey)["pool"], network(grey.expand(-1, 3, -1, -1))["pool"])


# --- metrics


def test_fid_is_torch_fidelitys_and_scipys_on_the_same_features(evaluators):
    """Of as many of the network's features as so few images have covariances of full rank in: elsewhere the root of a
    singular matrix leaves the others no more than some five digits."""
    from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

    x, y = (evaluator.features("pool")[:, :: 2048 // 8].double() for evaluator in evaluators)
    ours = [FeatureStatistics(x.shape[1]) for _ in range(2)]
    for gathered, features in zip(ours, (x, y), strict=True):
        gathered.update(features)
    distance = frechet_distance(*ours)
    theirs = fid_statistics_to_metric(fid_features_to_statistics(x), fid_features_to_statistics(y), verbose=False)
    assert distance == pytest.approx(theirs["frechet_inception_distance"], rel=1e-6)
    a, b = np.cov(x.numpy(), rowvar=False), np.cov(y.numpy(), rowvar=False)
    means = np.square((x.mean(0) - y.mean(0)).numpy()).sum()
    assert distance == pytest.approx(means + np.trace(a + b - 2 * sqrtm(a @ b).real), rel=1e-6)


@pytest.mark.parametrize(("name", "layer"), [("FID", "pool"), ("sFID", "spatial")])
def test_distances_of_few_images_are_exact(evaluators, ours, name, layer):
    samples, real = (evaluator.features(layer) for evaluator in evaluators)
    assert ours.values[name] == pytest.approx(low_rank_distance(samples, real), rel=1e-6)


@pytest.mark.parametrize(
    ("name", "key", "rel"),
    [
        ("FID", "frechet_inception_distance", 1e-4),  # theirs is a root of a singular matrix, see above
        ("IS", "inception_score_mean", 1e-6),
        ("IS_std", "inception_score_std", 1e-6),
        ("KID", "kernel_inception_distance_mean", 1e-3),  # theirs is in float32
        ("precision", "precision", 1e-6),
        ("recall", "recall", 1e-6),
    ],
)
def test_every_metric_is_torch_fidelitys_from_end_to_end(ours, theirs, name, key, rel):
    assert ours.values[name] == pytest.approx(theirs[key], rel=rel)


def test_images_differ_from_each_other_by_all_metrics(ours):
    assert ours.missing == []
    assert ours.values["FID"] > 0.1
    assert ours.values["sFID"] > 0.1
    assert ours.values["precision"] < 1


# --- weights


def test_random_weights_are_not_taken_for_the_published_ones(network):
    assert not is_published(network)
    assert network.widths == {"pool": 2048, "spatial": 2023}


@pytest.mark.parametrize("content", [b"", b"PK and then nothing", None])
def test_files_that_hold_no_weights_end_in_one_sentence(tmp_path, content):
    path = tmp_path / "weights.pth"
    if content is None:
        torch.save({"weight": torch.zeros(3)}, path)
    else:
        path.write_bytes(content)
    with pytest.raises(InputError, match=r"weights\.pth (is empty|is truncated|does not hold the weights)"):
        load_inception(path, CPU)


def test_code_in_a_file_of_weights_is_never_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"fc.bias": Trap()}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match="Python objects beyond tensors"):
        load_inception(tmp_path / "weights.pth", CPU)
    assert not (tmp_path / "sprung").exists()


def test_missing_weights_are_said_with_their_place(tmp_path, monkeypatch):
    def offline(*arguments, **more):
        raise URLError(OSError(-2, "Name or service not known"))

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr("urllib.request.urlopen", offline)
    with pytest.raises(InputError) as raised:
        load_inception(None, CPU)
    sentence = str(raised.value)
    assert "could not be downloaded (Name or service not known)" in sentence
    assert str(tmp_path / "hub" / "checkpoints" / "weights-inception-2015-12-05-6726825d.pth") in sentence
    assert sentence.endswith("or name the file with inception=FILE")


def test_weights_that_torch_hub_has_are_found(tmp_path, monkeypatch):
    kept = tmp_path / "checkpoints" / "pt_inception-2015-12-05-6726825d.pth"
    kept.parent.mkdir()
    torch.save({"weight": torch.zeros(3)}, kept)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(InputError, match=r"pt_inception-2015-12-05-6726825d\.pth does not hold the weights"):
        load_inception(None, CPU)
