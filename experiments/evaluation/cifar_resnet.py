"""The CIFAR-10 ResNets of He et al. (2015), section 4.2: a feature network for sets of CIFAR images."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs import InputError

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of the published weights' training, ImageNet's
WIDTHS = (16, 32, 64)  # of the three stages


class ResNet(nn.Module):
    """Images (B, 3, 32, 32) uint8 -> logits (B, classes). 6n + 2 layers, shortcuts without weights (option A)."""

    def __init__(self, blocks: int, classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, WIDTHS[0], 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(WIDTHS[0])
        self.layer1 = _stage(WIDTHS[0], WIDTHS[0], blocks)
        self.layer2 = _stage(WIDTHS[0], WIDTHS[1], blocks)
        self.layer3 = _stage(WIDTHS[1], WIDTHS[2], blocks)
        self.linear = nn.Linear(WIDTHS[2], classes)
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1), persistent=False)

    def features(self, images: Tensor) -> Tensor:
        """The averages that the last layer sees -> (B, 64). Raises InputError for images of another shape."""
        if images.shape[1:] != (3, 32, 32):
            raise InputError(f"a CIFAR ResNet takes images of 3x32x32, not {'x'.join(map(str, images.shape[1:]))}")
        x = (images.to(self.mean.device).float() / 255 - self.mean) / self.std
        x = F.relu(self.bn1(self.conv1(x)))  # (B, 16, 32, 32)
        x = self.layer3(self.layer2(self.layer1(x)))  # (B, 64, 8, 8)
        return x.mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        return self.linear(self.features(images))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, which takes every other pixel and pads channels with zeros."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)
        self.stride, self.padding = stride, (out_channels - in_channels) // 2

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        shortcut = F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.padding, self.padding))
        return F.relu(h + shortcut)


def is_resnet(state: Mapping[str, Tensor]) -> bool:
    return {"conv1.weight", "layer1.0.conv1.weight", "layer3.0.bn2.weight", "linear.weight"} <= state.keys()


def load_resnet(state: Mapping[str, Tensor], what: str, device: torch.device) -> tuple[ResNet, str]:
    """The network in eval mode, and its name, ResNet20, ResNet56 and so on. Raises InputError for other weights."""
    blocks = len([key for key in state if key.startswith("layer1.") and key.endswith(".conv1.weight")])
    network = ResNet(blocks, classes=len(state["linear.weight"]))
    try:
        network.load_state_dict(dict(state))
    except RuntimeError as error:
        raise InputError(f"{what} is not one of the CIFAR ResNets of He et al. ({error})") from error
    return network.to(device).eval().requires_grad_(False), f"ResNet{6 * blocks + 2}"


def _stage(in_channels: int, out_channels: int, blocks: int) -> nn.Sequential:
    first = Block(in_channels, out_channels, stride=out_channels // in_channels)
    return nn.Sequential(first, *(Block(out_channels, out_channels, 1) for _ in range(blocks - 1)))
