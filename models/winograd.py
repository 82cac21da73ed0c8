"""3x3 convolutions with half the products: the minimal algorithm F(4, 3) along the rows of a feature map.

Winograd 1980; Lavin & Gray 2016, "Fast algorithms for convolutional neural networks", section 4.3. Four outputs of a
filter g of three taps over six inputs d take six products in place of twelve,

    y = Aᵀ [(G g) ⊙ (Bᵀ d)],

Here d, y and the products are rows: each product is a convolution of 1x3 along its row, over all channels, and oneDNN
does six of them for four rows. In both directions, F(4x4, 3x3), it would be 36 products for 16 outputs, four times
fewer than directly, but rounding errors are an order of magnitude larger; as it is, they are twice those of a direct
convolution in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from models import processor
from models.onednn import convolve, pack_conv

G = [
    [1 / 4, 0, 0],
    [-1 / 6, -1 / 6, -1 / 6],
    [-1 / 6, 1 / 6, -1 / 6],
    [1 / 24, 1 / 12, 1 / 6],
    [1 / 24, -1 / 12, 1 / 6],
    [0, 0, 1],
]

# Of this many pixels at a time, inputs, products and outputs stay near the core.
PIXELS = 4096


class Filters(NamedTuple):
    """The transformed filters of a convolution, G g: twice as many numbers as g has."""

    packed: tuple[Tensor, ...]  # six, (O, C, 1, 3)
    bias: Tensor | None  # (O,)
    outputs: int  # O
    band: int  # rows that are computed at a time


def transform(weight: Tensor, bias: Tensor | None, size: Sequence[int]) -> Filters:
    """weight (O, C, 3, 3), bias (O,), (H, W) of the inputs -> what `convolution` takes. Computed in float64."""
    band = _band(*size)
    matrix = torch.tensor(G, dtype=torch.float64)
    filters = torch.einsum("ij,ocjw->iocw", matrix, weight.double()).to(weight.dtype).unsqueeze(-2)
    packed = tuple(pack_conv(row, (band // 4, size[1]), (0, 1)) for row in filters)
    return Filters(packed, bias, weight.shape[0], band)


def pays(x: Tensor, weight: Tensor) -> bool:
    """Is it possible, and sooner than a direct convolution? Where there are few numbers, calls and sums take longer
    than the products that are saved. Measured on a Zen 5 core (sooner by 40-55%), and on one of an Emerald Rapids
    Xeon (by 2-50%)."""
    images, _, height, width = x.shape
    pixels = images * height * width
    if x.dtype != torch.float32 or height % 4 or pixels < 256:
        return False
    outputs, channels = weight.shape[:2]
    if processor.is_amd():
        return min(outputs, channels) >= 64
    return min(outputs, channels) >= 96 and pixels * outputs * channels >= 2**24


def convolution(x: Tensor, filters: Filters) -> Tensor:
    """x (B, C, H, W), channels last, H a multiple of 4 -> (B, O, H, W), of stride 1 and padding 1."""
    pixels = x.permute(0, 2, 3, 1)
    batch, height, width, _ = pixels.shape
    out = x.new_empty(batch, height, width, filters.outputs)
    images = max(1, PIXELS // (height * width))
    for first in range(0, batch, images):
        some = slice(first, first + images)
        for top in range(0, height, filters.band):
            rows = slice(top, top + filters.band)
            _rows(pixels[some], rows, filters, out[some, rows])
    return out.permute(0, 3, 1, 2)


def _band(height: int, width: int) -> int:
    """Into how many rows a map is cut: equal bands of at most PIXELS, if it can be, each a multiple of 4 rows."""
    quads = height // 4
    return 4 * next(n for n in range(quads, 0, -1) if quads % n == 0 and (4 * n * width <= PIXELS or n == 1))


def _rows(x: Tensor, rows: slice, filters: Filters, out: Tensor) -> None:
    """x (B, H, W, C); out (B, rows, W, O): these rows of the convolution."""
    products = [
        convolve(d.permute(0, 3, 1, 2), weight, None, (0, 1)).permute(0, 2, 3, 1)
        for d, weight in zip(_inputs(x, rows.start, rows.stop), filters.packed, strict=True)
    ]
    _outputs(products, filters.bias, [out[:, i::4] for i in range(4)])


def _inputs(x: Tensor, top: int, bottom: int) -> list[Tensor]:
    """Bᵀ d = [[4, 0, -5, 0, 1, 0], [0, -4, -4, 1, 1, 0], [0, 4, -4, -1, 1, 0],
    [0, -2, -1, 2, 1, 0], [0, 2, -1, -2, 1, 0], [0, 4, 0, -5, 0, 1]] d

    d[i]: the rows i - 1, i + 3, i + 7, … from `top` on. Row -1 and the row below the last are zero: they are left out.
    """
    above, below = x[:, top - 1 if top else 3 : bottom - 4 : 4], x[:, top + 4 : bottom + 1 : 4]
    d = [above, *(x[:, top + i : bottom : 4] for i in range(4)), below]

    zeroth = torch.sub(d[4], d[2], alpha=5)
    zeroth[:, 0 if top else 1 :].add_(above, alpha=4)
    even, odd = torch.sub(d[4], d[2], alpha=4), torch.sub(d[3], d[1], alpha=4)
    first, second = even + odd, even.sub_(odd)
    even, odd = d[4] - d[2], d[3] - d[1]
    third, fourth = torch.add(even, odd, alpha=2), even.sub_(odd, alpha=2)
    last = torch.mul(d[1], 4).sub_(d[3], alpha=5)
    last[:, : below.shape[1]].add_(below)
    return [zeroth, first, second, third, fourth, last]


def _outputs(m: list[Tensor], bias: Tensor | None, out: list[Tensor]) -> None:
    """out = Aᵀ m + bias = [[1, 1, 1, 1, 1, 0], [0, 1, -1, 2, -2, 0], [0, 1, 1, 4, 4, 0], [0, 1, -1, 8, -8, 1]] m + bias

    Overwrites m.
    """
    sum1, difference1 = m[1] + m[2], m[1].sub_(m[2])
    sum2, difference2 = m[3] + m[4], m[3].sub_(m[4])
    if bias is not None:
        sum1, difference1 = sum1.add_(bias), difference1.add_(bias)
    torch.add(m[0].add_(sum1), sum2, out=out[0])
    torch.add(difference1, difference2, alpha=2, out=out[1])
    torch.add(sum1, sum2, alpha=4, out=out[2])
    torch.add(difference1.add_(difference2, alpha=8), m[5], out=out[3])
