"""Convolutions and products by oneDNN, named outright, with weights packed beforehand. On a CPU, without gradients.

The operators are those that torch.compile puts in place of a frozen network's layers; torch has had them since 2.0.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor


@functools.cache
def unpackable(dtype: torch.dtype) -> str | None:
    """Why weights of this type cannot be packed on this machine; None where they can."""
    if dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return f"oneDNN has no layers of {dtype}"
    try:
        x, weight = torch.ones(1, 16, 4, 4, dtype=dtype), torch.ones(16, 16, 3, 3, dtype=dtype)
        convolve(x, pack_conv(weight, (4, 4), (1, 1)), None, (1, 1))
        multiply(x[0, 0], pack_linear(torch.ones(16, 4, dtype=dtype)))
    except (AttributeError, RuntimeError) as error:  # torch built without oneDNN, or a processor without the type
        return f"this PyTorch cannot pack weights of {dtype} here ({str(error).splitlines()[0]})"
    return None


def packs(*tensors: Tensor | None) -> bool:
    """Can an operation on these, of which the first is its input, run here?"""
    x = tensors[0]
    if x.device.type != "cpu" or torch.compiler.is_compiling() or unpackable(x.dtype) is not None:
        return False
    return not (torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors))


def pack_conv(weight: Tensor, size: Sequence[int], padding: Sequence[int], stride: Sequence[int] = (1, 1)) -> Tensor:
    """weight (O, C, kh, kw) -> the same for `convolve`, opaque.

    size: (H, W) of the inputs to come, in batches of any size. Packed for another, weights may be rearranged in every
    call, a hundred times as slowly.
    """
    inputs = [1, weight.shape[1], *size]
    return torch.ops.mkldnn._reorder_convolution_weight(weight, padding, stride, (1, 1), 1, inputs)


def convolve(
    x: Tensor, packed: Tensor, bias: Tensor | None, padding: Sequence[int], stride: Sequence[int] = (1, 1)
) -> Tensor:
    """x (B, C, H, W), channels last, and a packed weight -> (B, O, H', W'), channels last."""
    return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, padding, stride, (1, 1), 1, "none", [], "")


def pack_linear(weight: Tensor) -> Tensor:
    """weight (O, C) -> the same for `multiply`, opaque."""
    return torch.ops.mkldnn._reorder_linear_weight(weight)


def multiply(x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str = "none") -> Tensor:
    """x (..., C) and a weight (O, C), packed or dense -> x weightᵀ + bias, (..., O).

    activation: "gelu", with erf, is applied to the result before it is written; "none".
    """
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, activation, [], "none")
