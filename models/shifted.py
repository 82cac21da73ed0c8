"""3x3 convolutions to a few channels, such as a network's last, as one product and nine shifted maps.

oneDNN computes 16 output channels where there are three. As one product of all pixels with all nine taps,
(O·9, C), hardly any is wasted, and what is left to do is to add nine maps of O channels, each shifted by its tap.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from models.onednn import multiply, pack_linear


class Taps(NamedTuple):
    """What a convolution multiplies its pixels by."""

    packed: Tensor  # (9·O, C)
    bias: Tensor  # (O, 1, 1, 1), or zero
    outputs: int  # O


def by_tap(weight: Tensor, bias: Tensor | None) -> Taps:
    """weight (O, C, 3, 3), bias (O,) -> what `convolution` takes."""
    outputs, channels = weight.shape[:2]
    rows = weight.permute(2, 3, 0, 1).reshape(9 * outputs, channels)
    offset = weight.new_zeros(outputs) if bias is None else bias
    return Taps(pack_linear(rows.contiguous()), offset.reshape(-1, 1, 1, 1), outputs)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Is it sooner than a direct convolution? Measured on a Zen 5 core: by a quarter to a half for 3 or 4 channels; in
    half precisions, where the maps' sum would also be rounded nine times, hardly at all."""
    return x.dtype == torch.float32 and weight.shape[0] <= 4 and weight.shape[1] >= 64


def convolution(x: Tensor, taps: Taps) -> Tensor:
    """x (B, C, H, W), channels last -> (B, O, H, W), of stride 1 and padding 1."""
    batch, _, height, width = x.shape
    products = multiply(x.permute(0, 2, 3, 1), taps.packed)
    maps = products.flatten(0, 2).t().contiguous().view(3, 3, taps.outputs, batch, height, width)
    out = maps[1, 1] + taps.bias
    for i, j in ((0, 0), (0, 1), (0, 2), (1, 0), (1, 2), (2, 0), (2, 1), (2, 2)):
        # A tap above adds the pixel above: row y - 1 of its map to row y of the output.
        (rows, from_rows), (columns, from_columns) = _shift(i - 1, height), _shift(j - 1, width)
        out[..., rows, columns].add_(maps[i, j][..., from_rows, from_columns])
    return out.transpose(0, 1)


def _shift(by: int, length: int) -> tuple[slice, slice]:
    """The positions of an output whose neighbour `by` -1, 0 or 1 further is within the map, and those neighbours."""
    return slice(max(0, -by), length - max(0, by)), slice(max(0, by), length + min(0, by))
