"""The concat convolution of a cached branch, split: what the cached feature contributes is computed once per refresh.

up[b] begins with conv1(SiLU(norm1([F, s]))) and shortcut([F, s]), F the cached feature and s the fresh skip.
Convolutions are linear in their input channels, and GroupNorm is per group. So with W = [W_F | W_s] along the input
channels,

    conv1(SiLU(norm1([F, s]))) = W_F * SiLU(norm_F(F)) + W_s * SiLU(norm_s(s)) + bias

exactly, where norm_F has the groups that lie wholly in F. The channels of a group that reaches from F into s (12 of 256
where 256 + 128 channels make 32 groups) stay on the fresh side, unnormalised.

The outermost skip is itself a convolution of the network's few input channels, s = W_in * x. So its shortcut, V_s s, is
one as well, by the filters V_s W_in: a fraction of the products of the 1x1 convolution V_s.
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

    def __init__(self, res: ResBlock, entering: int, whole: int, entry: nn.Conv2d | None) -> None:
        super().__init__()
        channels = res.conv1.in_channels
        self.norm = norm_slice(res.norm1, whole, channels)
        self.conv = conv_slice(res.conv1, whole, channels, bias=True)
        self.shortcut = conv_slice(res.shortcut, entering, channels, bias=True)
        self.shortcut_of_x = None if entry is None else composed(entry, self.shortcut)
        self.res = res

    def forward(self, entering: tuple[PartialSums, Tensor, Tensor | None], emb: Tensor) -> Tensor:
        """((partial sums, skip (B, C, H, W), what the skip was made from), emb (B, embed_dim))
        -> (B, out_channels, H, W)."""
        (conv, shortcut, border), skip, x = entering
        fresh = torch.cat([border, skip], dim=1) if border.shape[1] else skip
        h = self.conv(F.silu(self.norm(fresh))).add_(conv)
        fresh_shortcut = self.shortcut(skip) if x is None or self.shortcut_of_x is None else self.shortcut_of_x(x)
        return self.res.second_half(h, emb).add_(fresh_shortcut).add_(shortcut)


class SplitConsumer(Stage):
    """up[b] in two: `keep` once per refresh, and a forward that takes what was kept. Shares the stage's other parts.

    entry: of the outermost branch, the convolution that makes its skip from the network's input x.
    """

    def __init__(self, stage: Consumer, entering: int, entry: nn.Conv2d | None = None) -> None:
        whole = whole_groups(stage.res.norm1, entering)
        entry = entry if entry is not None and composing_pays(entry) else None
        super().__init__(FreshHalf(stage.res, entering, whole, entry), stage.attn, stage.resample)
        self.keep = KeptHalf(stage.res, entering, whole)

    def forward(  # type: ignore[override]
        self, sums: PartialSums, skip: Tensor, emb: Tensor, context: Tensor | None, x: Tensor | None = None
    ) -> Tensor:
        return super().forward((sums, skip, x), emb, context)


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


def composing_pays(entry: nn.Conv2d) -> bool:
    """Is the shortcut sooner made of x? Where it takes fewer products, but for half precisions and GPUs: they have
    units for large products alone."""
    weight = entry.weight
    return weight[0].numel() < len(weight) and weight.device.type == "cpu" and weight.dtype.itemsize >= 4


def composed(first: nn.Conv2d, then: nn.Conv2d) -> nn.Conv2d:
    """A convolution followed by one of 1x1, as one convolution; made in float64."""
    mix = then.weight.flatten(1).double()
    weight = torch.einsum("om,mikl->oikl", mix, first.weight.double()).to(then.weight.dtype)
    bias = (mix @ first.bias.double() + then.bias.double()).to(then.bias.dtype)
    part = type(then)(first.in_channels, then.out_channels, first.kernel_size, padding=first.padding, device="meta")
    return _with(part, weight=weight, bias=bias)


def _with(module: nn.Module, **parameters: Tensor) -> nn.Module:
    """`module` with these tensors as its parameters, without gradients."""
    for name, value in parameters.items():
        setattr(module, name, nn.Parameter(value.detach(), requires_grad=False))
    return module.eval()
