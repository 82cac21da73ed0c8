"""Residual blocks and changes of resolution, and the stages between two skip connections."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.config import FirstStageConfig, UNetConfig


class ResBlock(nn.Module):
    """norm1, SiLU, [resample], conv1, + embedding, norm2, SiLU, dropout, conv2; plus a (1x1) shortcut.

    With config.scale_shift_norm the embedding becomes (scale, shift) of norm2: norm2(h)·(1 + scale) + shift.
    The blocks of first stages, whose config.embed_dim is None, have no embedding.
    resample: applied between SiLU and conv1, and to the shortcut ("up" or "down"; guided-diffusion).
    """

    def __init__(
        self, config: UNetConfig | FirstStageConfig, in_channels: int, out_channels: int, resample: str | None = None
    ) -> None:
        super().__init__()
        self.resample = resample
        self.scale_shift = config.scale_shift_norm
        self.norm1 = nn.GroupNorm(config.num_groups, in_channels, config.norm_eps)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, padding=1)
        projected = (2 if self.scale_shift else 1) * out_channels
        self.embed = nn.Linear(config.embed_dim, projected) if config.embed_dim is not None else None
        self.norm2 = nn.GroupNorm(config.num_groups, out_channels, config.norm_eps)
        self.dropout = nn.Dropout(config.dropout)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1)
        self.shortcut = nn.Conv2d(in_channels, out_channels, 1) if in_channels != out_channels else nn.Identity()

    def forward(self, x: Tensor, emb: Tensor | None = None) -> Tensor:
        """x (B, in_channels, H, W), emb (B, embed_dim) after its SiLU -> (B, out_channels, H', W')."""
        h = F.silu(self.norm1(x))
        if self.resample is not None:
            h, x = RESAMPLE[self.resample](h), RESAMPLE[self.resample](x)
        return self.shortcut(x) + self.second_half(self.conv1(h), emb)

    def second_half(self, h: Tensor, emb: Tensor | None) -> Tensor:
        """What conv1 made (B, out_channels, H', W') -> what conv2 makes of it and of the embedding."""
        if self.embed is None:
            h = self.norm2(h)
        elif self.scale_shift:
            scale, shift = self.embed(emb)[:, :, None, None].chunk(2, dim=1)
            h = self.norm2(h) * (1 + scale) + shift
        else:
            h = self.norm2(h + self.embed(emb)[:, :, None, None])
        return self.conv2(self.dropout(F.silu(h)))


def nearest_2x(x: Tensor) -> Tensor:
    return F.interpolate(x, scale_factor=2, mode="nearest")


def average_2x(x: Tensor) -> Tensor:
    return F.avg_pool2d(x, 2)


RESAMPLE = {"up": nearest_2x, "down": average_2x}


class Downsample(nn.Module):
    """3x3 convolution of stride 2. Asymmetric padding puts its one row and column at the bottom and right."""

    def __init__(self, channels: int, padding: str) -> None:
        super().__init__()
        self.asymmetric = padding == "asymmetric"
        self.conv = nn.Conv2d(channels, channels, 3, stride=2, padding=0 if self.asymmetric else 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(F.pad(x, (0, 1, 0, 1)) if self.asymmetric else x)


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(nearest_2x(x))


def resample(config: UNetConfig, channels: int, direction: str) -> nn.Module:
    """The change of resolution ("up" or "down") that `config` asks for, `channels` wide."""
    if config.resample == "resblock":
        return ResBlock(config, channels, channels, resample=direction)
    return Downsample(channels, config.downsample_padding) if direction == "down" else Upsample(channels)


class Stage(nn.Module):
    """What lies between two skip connections: a residual block with its attention, or a change of resolution, or
    (on the way up, at the end of a level) both. Parts that a stage lacks are simply absent from its parameters."""

    def __init__(
        self, res: ResBlock | None = None, attn: nn.Module | None = None, resample: nn.Module | None = None
    ) -> None:
        super().__init__()
        self.res, self.attn, self.resample = res, attn, resample

    def forward(self, h: Tensor, emb: Tensor | None = None, context: Tensor | None = None) -> Tensor:
        if self.res is not None:
            h = self.res(h, emb)
        if self.attn is not None:
            h = self.attn(h, context)
        if self.resample is not None:
            h = self.resample(h, emb) if isinstance(self.resample, ResBlock) else self.resample(h)
        return h


class Entry(nn.Module):
    """down[0]: the first convolution, which produces the outermost skip."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(in_channels, channels, 3, padding=1)

    def forward(self, x: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        return self.conv(x)


class Consumer(Stage):
    """up[i]: concatenates the entering feature with skip i, then goes on as a stage."""

    def forward(self, h: Tensor, skip: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward(torch.cat([h, skip], dim=1), emb, context)
