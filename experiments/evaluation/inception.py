"""The network of FID: the Inception of 2015-12-05, as torch-fidelity translated it from TensorFlow."""

from __future__ import annotations

import io
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from configs import InputError
from experiments.evaluation.extras import optional
from experiments.evaluation.networks import POOL, FeatureNetwork
from models import reading
from models.download import digest, fetch
from models.hub import reason

NAME = "inception-v3-compat"  # torch-fidelity's name of it
URL = "https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth"
SHA256 = "6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2"  # of that file; pytorch-fid's is the same
RESIZES = ("tensorflow", "pytorch")
SIDE = 299  # pixels of what it sees
SPATIAL = "spatial"
SPATIAL_CHANNELS, SPATIAL_SIDE = 7, 17


def load_inception(weights: str | Path | None, device: torch.device, resize: str = "tensorflow") -> FeatureNetwork:
    """The network with its layers POOL, the 2048 features of FID, and SPATIAL, the 2023 of sFID.

    weights: torch-fidelity's .pth; None looks where torch.hub keeps downloads, then downloads it.
    resize: how images are brought to 299x299: `tensorflow` as in the first FID, torch-fidelity and OpenAI's evaluator
      (the corners of both grids coincide), `pytorch` as in pytorch-fid (the areas do). The features are others.
    Raises InputError where torch-fidelity or the weights are missing (saying where to put them), and for a file that
    does not hold them.
    """
    optional("torch_fidelity", "eval", "the metrics of Inception need")
    file = _weights_file(weights)
    network = _build(file).to(device)
    taps = _Tap(network.Mixed_6d.branch1x1)

    if resize == "pytorch":
        resized = _Resized(network.Conv2d_1a_3x3)

    def extract(images: Tensor) -> dict[str, Tensor]:
        images = images.expand(-1, 3, -1, -1).to(device)
        if resize == "pytorch":
            resized.images = images
        (pool,) = network(images)  # which resizes and scales by itself
        return {POOL: pool, SPATIAL: spatial_features(taps.output)}

    return FeatureNetwork(
        name=NAME if resize == "tensorflow" else f"{NAME}-{resize}",
        sha256=digest(file, "sha256"),
        widths={POOL: 2048, SPATIAL: SPATIAL_CHANNELS * SPATIAL_SIDE**2},
        metrics={POOL: "FID", SPATIAL: "sFID"},
        extract=extract,
        head=network.fc.weight.detach().cpu(),  # the Inception Score leaves the bias out, as TensorFlow's graph did
    )


def is_published(network: FeatureNetwork) -> bool:
    """Whether these are the weights that published figures were computed with."""
    return network.sha256 == SHA256


def spatial_features(x: Tensor) -> Tensor:
    """sFID's features (N, 2023), of the output of Mixed_6d.branch1x1 (N, 192, 17, 17).

    OpenAI's evaluator takes the first 7 channels of `mixed_6/conv:0`. In TensorFlow's graph the 17x17 blocks mixed_4
    to mixed_7 are Mixed_6b to Mixed_6e here, and the node `conv` of a scope comes after its batch norm and its ReLU.
    Channels come last, as in the mu_s and sigma_s of OpenAI's reference files.
    """
    return x[:, :SPATIAL_CHANNELS].permute(0, 2, 3, 1).flatten(1)


class _Resized:
    """In the place of what a module would see of the images: as pytorch-fid resizes and scales them."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.images = torch.empty(0)  # (B, 3, H, W) uint8
        module.register_forward_pre_hook(self._resize)

    def _resize(self, module: torch.nn.Module, args: tuple) -> Tensor:
        x = F.interpolate(self.images.float() / 255, (SIDE, SIDE), mode="bilinear", align_corners=False)
        return 2 * x - 1


class _Tap:
    """The last output of a module."""

    def __init__(self, module: torch.nn.Module) -> None:
        self.output = torch.empty(0)
        module.register_forward_hook(self._keep)

    def _keep(self, module: torch.nn.Module, args: tuple, output: Tensor) -> None:
        self.output = output


def _weights_file(weights: str | Path | None) -> Path:
    if weights is not None:
        return Path(weights).expanduser()
    kept = Path(torch.hub.get_dir()) / "checkpoints" / URL.rsplit("/", 1)[1]
    for path in (kept, kept.with_name("pt_inception-2015-12-05-6726825d.pth")):  # torch-fidelity's, pytorch-fid's
        if path.is_file():
            return path
    try:
        return fetch(URL)
    except InputError as error:
        why = f" ({reason(error.__cause__)})" if isinstance(error.__cause__, Exception) else ""
        raise InputError(f"the Inception weights are not here and could not be downloaded{why}; get {URL} and put it "
                         f"at {kept}, or name the file with inception=FILE") from error  # fmt: skip


def _build(file: Path) -> torch.nn.Module:
    """torch-fidelity's network. Its constructor unpickles whatever it is given; what it is given here is a copy of
    the tensors alone, which were read without running any code of the file."""
    module = optional("torch_fidelity.feature_extractor_inceptionv3", "eval", "the metrics of Inception need")
    buffer = io.BytesIO()
    torch.save(reading.read(file).tensors, buffer)
    buffer.seek(0)
    try:
        return module.FeatureExtractorInceptionV3(NAME, ["2048"], feature_extractor_weights_path=buffer)
    except RuntimeError as error:
        raise InputError(f"{file} does not hold the weights of torch-fidelity's InceptionV3") from error
