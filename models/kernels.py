"""The layers of a network on oneDNN, with weights packed once: the same numbers, sooner, on a CPU.

PyTorch chooses a convolution's algorithm call by call. In float32 on one thread it takes an explicit im2col for small
batches and 1x1 kernels, linear layers and attention go to a matrix library that is slow on processors of other makers,
and oneDNN, where it is chosen, rearranges the weights in every call. Each layer here names its algorithm instead, and
computes as the layer it stands for wherever that is not to be had: on other devices, in float64, under
torch.compile, or when gradients are wanted.
"""

from __future__ import annotations

import functools
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import Attend

Network = TypeVar("Network", bound=nn.Module)


def optimise(network: Network) -> Network:
    """A copy of `network` to sample with, its layers replaced by those of this module. Any module will do.

    Copy and original share their parameters and buffers. Packed weights come on top of them, layer by layer at its
    first call: at most as much memory as the parameters take. Parameters may change later; they are packed again.
    """
    return _optimised(network, {})


def _optimised(module: nn.Module, done: dict[nn.Module, nn.Module]) -> nn.Module:
    if module not in done:
        kind = REPLACED.get(type(module), type(module))
        done[module] = copy = kind.__new__(kind)
        copy.__dict__.update(module.__dict__)
        for name in ("_parameters", "_buffers"):
            copy.__dict__[name] = dict(module.__dict__[name])
        copy.__dict__["_modules"] = {
            name: child and _optimised(child, done) for name, child in module.__dict__["_modules"].items()
        }
    return done[module]


@functools.cache
def unpackable(dtype: torch.dtype) -> str | None:
    """Why weights of this type cannot be packed on this machine; None where they can."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"oneDNN has no layers of {dtype}"
    try:
        x, weight = torch.ones(1, 16, 4, 4, dtype=dtype), torch.ones(16, 16, 3, 3, dtype=dtype)
        _convolve(x, _pack_conv(weight, (1, 1), (1, 1)), None, (1, 1), (1, 1))
        _multiply(x[0, 0], _pack_linear(torch.ones(16, 4, dtype=dtype)))
    except (AttributeError, RuntimeError) as error:  # torch built without oneDNN, or a processor it does not know
        return f"this PyTorch cannot pack weights of {dtype} here ({str(error).splitlines()[0]})"
    return None


def packs(*tensors: Tensor | None) -> bool:
    """Can a layer of these inputs and parameters run on packed weights?"""
    first = tensors[0]
    if first.device.type != "cpu" or torch.compiler.is_compiling() or unpackable(first.dtype) is not None:
        return False
    given = [tensor for tensor in tensors if tensor is not None]
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in given))


class PackedConv2d(nn.Conv2d):
    """nn.Conv2d by oneDNN, channels last."""

    packed: tuple[tuple[int, ...], Tensor] | None = None  # what the weights were when they were packed, and packed

    def forward(self, x: Tensor) -> Tensor:
        """x (B, in_channels, H, W) -> (B, out_channels, H', W')."""
        if not packs(x, self.weight, self.bias) or self.groups > 1 or self.padding_mode != "zeros":
            return super().forward(x)
        x = x.contiguous(memory_format=torch.channels_last)
        if self.kernel_size == (1, 1) and self.stride == (1, 1):  # a linear layer of every pixel
            return _multiply(x.permute(0, 2, 3, 1), self._weight(), self.bias).permute(0, 3, 1, 2)
        return _convolve(x, self._weight(), self.bias, self.padding, self.stride)

    def _weight(self) -> Tensor:
        state = _state(self.weight)
        if self.packed is None or self.packed[0] != state:
            weight = self.weight.detach()
            is_linear = self.kernel_size == (1, 1) and self.stride == (1, 1)
            packed = _pack_linear(weight.flatten(1)) if is_linear else _pack_conv(weight, self.padding, self.stride)
            self.packed = state, packed
        return self.packed[1]


class PackedLinear(nn.Linear):
    """nn.Linear by oneDNN."""

    packed: tuple[tuple[int, ...], Tensor] | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x (..., in_features) -> (..., out_features)."""
        if not packs(x, self.weight, self.bias):
            return super().forward(x)
        state = _state(self.weight)
        if self.packed is None or self.packed[0] != state:
            self.packed = state, _pack_linear(self.weight.detach())
        return _multiply(x, self.packed[1], self.bias)


class TiledAttend(Attend):
    """Attention by two products per tile of queries, whose weights stay in the cache, in place of PyTorch's own."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, heads, L, d), k and v (B, heads, M, d) -> (B, heads, L, d)."""
        if not packs(q, k, v) or not is_worth_tiling(k.shape[-2], k.shape[-1]):
            return super().forward(q, k, v)
        return tiled_attention(q, k, v)


def is_worth_tiling(keys: int, width: int) -> bool:
    """Measured on a Zen 5 core: tiles win 10-80% from 256 keys on in heads wider than 32, and lose below either."""
    return keys >= 256 and width > 32


TILE = 256  # queries: their weights over a few thousand keys fit a core's cache


def tiled_attention(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(q kᵀ / sqrt(d)) v, for one tile of queries after the other."""
    queries, keys = (q * q.shape[-1] ** -0.5).contiguous(), k.contiguous()
    values = v.transpose(-1, -2).contiguous()
    batch, heads, length, width = q.shape
    out = q.new_empty(batch, length, heads, width).transpose(1, 2)
    for image in range(batch):
        for head in range(heads):
            for start in range(0, length, TILE):
                weights = _multiply(queries[image, head, start : start + TILE], keys[image, head]).softmax(dim=-1)
                out[image, head, start : start + TILE] = _multiply(weights, values[image, head])
    return out


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm, in float32 where PyTorch's kernel for half precisions is slow: it walks a small feature map
    channels last by group, one element at a time where a group has fewer channels than a vector."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W)."""
        channels = self.num_channels // self.num_groups
        is_slow = x.dtype in (torch.bfloat16, torch.float16) and channels < 16 and x[0, 0].numel() < 1024
        if x.device.type != "cpu" or not is_slow or torch.compiler.is_compiling():
            return super().forward(x)
        weight, bias = self.weight.float(), self.bias.float()
        return F.group_norm(x.float(), self.num_groups, weight, bias, self.eps).to(x.dtype)


REPLACED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Conv2d: PackedConv2d,
    nn.Linear: PackedLinear,
    nn.GroupNorm: GroupNorm,
    Attend: TiledAttend,
}


def _state(weight: Tensor) -> tuple[int, ...]:
    """Changes when the values of `weight` do."""
    return weight.data_ptr(), 0 if weight.is_inference() else weight._version


def _pack_conv(weight: Tensor, padding: tuple[int, ...], stride: tuple[int, ...]) -> Tensor:
    # The input's size is a hint. Packed for a small one, weights fit large ones, too, and not the reverse.
    hint = [1, weight.shape[1], 8, 8]
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, (1, 1), 1, hint)


def _pack_linear(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def _convolve(
    x: Tensor, packed: Tensor, bias: Tensor | None, padding: tuple[int, ...], stride: tuple[int, ...]
) -> Tensor:
    return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, padding, stride, (1, 1), 1, "none", [], "")


def _multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x (..., n) times weight (m, n), packed or as it is, transposed -> (..., m)."""
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
