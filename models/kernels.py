"""The layers of a network with their algorithms named and their weights prepared once: the same numbers, sooner.

On a CPU, PyTorch chooses a convolution's algorithm call by call. In float32 on one thread that is an explicit im2col
for 1x1 kernels and small batches; linear layers and attention go to a matrix library that is slow on other makers'
processors; and oneDNN, where it is chosen, rearranges the weights in every call. Each layer here computes as the one it
stands for wherever its own algorithm is not to be had: on other devices, in float64 (see onednn.unpackable), under
torch.compile, and when gradients are wanted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models import shifted, tiled, winograd
from models.attention import Attend, FeedForward
from models.onednn import convolve, multiply, pack_conv, pack_linear, packs

Network = TypeVar("Network", bound=nn.Module)
Operation = Callable[[Tensor], Tensor]


def optimise(network: Network) -> Network:
    """A copy of `network`, or of any part of one, to sample with: its layers are replaced by those of this module.

    The two share as replace_layers says. On a CPU, prepared weights come on top of the parameters, layer by layer at
    its first call: as much memory again, of 3x3 convolutions in float32 twice as much; and once more where maps of
    another size follow. Parameters may change later; these layers prepare them again.
    """
    return replace_layers(network, REPLACED)


def replace_layers(network: Network, kinds: Mapping[type[nn.Module], type[nn.Module]]) -> Network:
    """A copy of `network` in which modules of exactly these types are of others, derived from them.

    Copy and original share parameters, buffers and all else.
    """
    return _replaced(network, kinds, {})


def _replaced(
    module: nn.Module, kinds: Mapping[type[nn.Module], type[nn.Module]], done: dict[nn.Module, nn.Module]
) -> nn.Module:
    if module not in done:
        kind = kinds.get(type(module), type(module))
        done[module] = copy = kind.__new__(kind)
        copy.__dict__.update(module.__dict__)
        for registry in ("_parameters", "_buffers"):
            copy.__dict__[registry] = dict(module.__dict__[registry])
        children = module.__dict__["_modules"].items()
        copy.__dict__["_modules"] = {
            name: None if child is None else _replaced(child, kinds, done) for name, child in children
        }
    return done[module]


class Conv2d(nn.Conv2d):
    """nn.Conv2d by oneDNN, channels last: 1x1 as a product, 3x3 by Winograd's algorithm or by shifted maps where
    that is sooner."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, out_channels, H', W')."""
        if self.groups > 1 or self.dilation != (1, 1) or self.padding_mode != "zeros" or isinstance(self.padding, str):
            return super().forward(x)
        if not packs(x, self.weight, self.bias):
            return super().forward(x)
        operation = _prepared(self, _algorithm(self, x), x.shape[2:])
        return operation(x.contiguous(memory_format=torch.channels_last))


class Linear(nn.Linear):
    """nn.Linear by oneDNN."""

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        if not packs(x, self.weight, self.bias):
            return super().forward(x)
        return _prepared(self, _linear)(x)


def _prepared(layer: nn.Module, prepare: Callable[..., Operation], *size: Sequence[int]) -> Operation:
    """The operation that `prepare` makes of the layer, once for a size of feature maps, until the parameters change."""
    state = [_state(parameter) for parameter in (layer.weight, layer.bias) if parameter is not None]
    known = layer.__dict__.setdefault("prepared", {})
    if known.get((prepare, size), [None])[0] != state:
        with torch.no_grad():
            known[prepare, size] = state, prepare(layer, *size)
    return known[prepare, size][1]


def _state(parameter: Tensor) -> tuple[int, int]:
    return parameter.data_ptr(), 0 if parameter.is_inference() else parameter._version


def _algorithm(conv: Conv2d, x: Tensor) -> Callable[..., Operation]:
    shape = (conv.kernel_size, conv.padding, conv.stride)
    if shape == ((1, 1), (0, 0), (1, 1)):
        return _product
    if shape == ((3, 3), (1, 1), (1, 1)):
        if winograd.pays(x, conv.weight):
            return _winograd
        if shifted.pays(x, conv.weight):
            return _shifted
    return _direct


def _product(conv: nn.Conv2d, size: Sequence[int]) -> Operation:
    """A 1x1 convolution is a linear layer of every pixel."""
    weight, bias = pack_linear(conv.weight.flatten(1)), conv.bias
    return lambda x: multiply(x.permute(0, 2, 3, 1), weight, bias).permute(0, 3, 1, 2)


def _winograd(conv: nn.Conv2d, size: Sequence[int]) -> Operation:
    filters = winograd.transform(conv.weight, conv.bias, size)
    return lambda x: winograd.convolution(x, filters)


def _shifted(conv: nn.Conv2d, size: Sequence[int]) -> Operation:
    taps = shifted.by_tap(conv.weight, conv.bias)
    return lambda x: shifted.convolution(x, taps)


def _direct(conv: nn.Conv2d, size: Sequence[int]) -> Operation:
    padding, stride, bias = conv.padding, conv.stride, conv.bias
    weight = pack_conv(conv.weight, size, padding, stride)
    return lambda x: convolve(x, weight, bias, padding, stride)


def _linear(linear: nn.Linear) -> Operation:
    weight, bias = pack_linear(linear.weight), linear.bias
    return lambda x: multiply(x, weight, bias)


def _gated(linear: nn.Linear) -> Operation:
    """value · gelu(gate), where `linear` makes both, one after the other."""
    (value, gate), (value_bias, gate_bias) = (parameter.chunk(2) for parameter in (linear.weight, linear.bias))
    value, gate = pack_linear(value), pack_linear(gate)
    return lambda x: multiply(x, value, value_bias).mul_(multiply(x, gate, gate_bias, "gelu"))


class FastFeedForward(FeedForward):
    """GEGLU by two products, of which one ends in its GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, L, C) -> (B, L, C)."""
        if not packs(x, self.proj_in.weight, self.proj_in.bias):
            return super().forward(x)
        return self.proj_out(_prepared(self.proj_in, _gated)(x))


class FastAttend(Attend):
    """Attention by oneDNN's products, one tile of queries after the other, where that is sooner."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, heads, L, d), k and v (B, heads, M, d) -> (B, heads, L, d)."""
        if packs(q, k, v) and tiled.pays(q, k):
            return tiled.attention(q, k, v)
        return super().forward(q, k, v)


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm, in float32 where PyTorch's kernel for half precisions is slow: it goes through small feature maps,
    channels last, group by group, and element by element where a group's channels do not fill its vectors of 16."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W)."""
        is_ragged = self.num_channels // self.num_groups % 16 != 0
        is_slow = is_ragged and x[0, 0].numel() < 1024 and x.device.type == "cpu"
        if not is_slow or x.dtype not in (torch.bfloat16, torch.float16) or torch.compiler.is_compiling():
            return super().forward(x)
        normalised = F.group_norm(x.float(), self.num_groups, self.weight.float(), self.bias.float(), self.eps)
        return normalised.to(x.dtype)


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: Conv2d,
    nn.Linear: Linear,
    nn.GroupNorm: GroupNorm,
    Attend: FastAttend,
    FeedForward: FastFeedForward,
}
