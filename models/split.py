"""The concat convolution of a cached branch, split: what the cached feature contributes is computed once per refresh.

up[b] begins with conv1(SiLU(norm1([F, s]))) and shortcut([F, s]), F the cached feature and s the fresh skip.
Convolutions are linear in their input channels, and GroupNorm is per group. So with W = [W_F | W_s] along the input
channels,

    conv1(SiLU(norm1([F, s]))) = W_F * SiLU(norm_F(F)) + W_s * SiLU(norm_s(s)) + bias

exactly, where norm_F has the groups that lie wholly in F. The channels of a group that reaches from F into s (12 of 256
where 256 + 128 channels make 32 groups) stay on the fresh side, unnormalised.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.blocks import Consumer, ResBlock, Stage


class PartialSums(NamedTuple):
    """What is kept of the feature that enters up[b], in its place."""

    conv: Tensor  # (B, out_channels, H, W) partial sum of conv1
    shortcut: Tensor  # (B, out_channels, H, W) partial sum of the shortcut
    border: Tensor  # (B, c, H, W) the feature's channels in the group that straddles, as they are; c may be 0


class KeptHalf(nn.Module):
    """The work on the cached feature alone."""

    def __init__(self, res: ResBlock, entering: int, whole: int) -> None:
        super().__init__()
        self.whole = whole
        self.norm = norm_slice(res.norm1, 0, whole)
        self.conv = conv_slice(res.conv1, 0, whole)
        self.shortcut = conv_slice(res.shortcut, 0, entering)

    def forward(self, h: Tensor) -> PartialSums:
        """h (B, entering, H, W): what enters up[b]."""
        conv = self.conv(F.silu(self.norm(h[:, : self.whole])))
        return PartialSums(conv, self.shortcut(h), h[:, self.whole :].clone())  # a slice would keep all of h alive


class FreshHalf(nn.Module):
    """The residual block given the partial sums of the feature: the work on the skip, and all that follows conv1.

    The biases are on this side, whatever a forecaster's weights of the parts add up to.
    """

    def __init__(self, res: ResBlock, entering: int, whole: int) -> None:
        super().__init__()
        channels = res.conv1.in_channels
        self.norm = norm_slice(res.norm1, whole, channels)
        self.conv = conv_slice(res.conv1, whole, channels, bias=True)
        self.shortcut = conv_slice(res.shortcut, entering, channels, bias=True)
        self.res = res

    def forward(self, entering: tuple[PartialSums, Tensor], emb: Tensor) -> Tensor:
        """((partial sums, skip (B, C, H, W)), emb (B, embed_dim)) -> (B, out_channels, H, W)."""
        (conv, shortcut, border), skip = entering
        fresh = torch.cat([border, skip], dim=1) if border.shape[1] else skip
        h = self.conv(F.silu(self.norm(fresh))).add_(conv)
        return self.res.second_half(h, emb).add_(self.shortcut(skip)).add_(shortcut)


class SplitConsumer(Stage):
    """up[b] in two: `keep` once per refresh, and a forward that takes what was kept. Shares the stage's other parts."""

    def __init__(self, stage: Consumer, entering: int) -> None:
        whole = whole_groups(stage.res.norm1, entering)
        super().__init__(FreshHalf(stage.res, entering, whole), stage.attn, stage.resample)
        self.keep = KeptHalf(stage.res, entering, whole)

    def forward(self, sums: PartialSums, skip: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:  # type: ignore[override]
        return super().forward((sums, skip), emb, context)


def whole_groups(norm: nn.GroupNorm, entering: int) -> int:
    """The first channels of `norm`'s input whose groups lie wholly within the first `entering`."""
    size = norm.num_channels // norm.num_groups
    return entering // size * size


def norm_slice(norm: nn.GroupNorm, start: int, stop: int) -> nn.GroupNorm:
    """The normalisation of channels start … stop - 1, whole groups, by themselves."""
    groups = (stop - start) * norm.num_groups // norm.num_channels
    part = type(norm)(groups, stop - start, norm.eps, device="meta")
    return _with(part, weight=norm.weight[start:stop], bias=norm.bias[start:stop])


def conv_slice(conv: nn.Conv2d, start: int, stop: int, bias: bool = False) -> nn.Conv2d:
    """The convolution of input channels start … stop - 1 by themselves; at most one slice takes the bias."""
    size, padding = conv.kernel_size, conv.padding
    part = type(conv)(stop - start, conv.out_channels, size, padding=padding, bias=bias, device="meta")
    weight = conv.weight[:, start:stop].clone(memory_format=torch.preserve_format)
    return _with(part, weight=weight, **({"bias": conv.bias} if bias else {}))


def _with(module: nn.Module, **parameters: Tensor) -> nn.Module:
    """`module` with these tensors as its parameters, without gradients."""
    for name, value in parameters.items():
        setattr(module, name, nn.Parameter(value.detach(), requires_grad=False))
    return module.eval()
