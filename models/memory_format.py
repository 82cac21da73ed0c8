"""The memory format that a network's feature maps are computed in soonest."""

from __future__ import annotations

import torch
from torch import nn


def memory_format(network: nn.Module) -> torch.memory_format:
    """Of convolution weights and feature maps, which follow them: channels last, but for float32 on a GPU.

    There convolutions run without tensor cores, for which that format is made, and PyTorch's GroupNorm knows no other
    than the contiguous one: it would copy every map, and the next convolution would copy it back.
    """
    weight = next(network.parameters())
    return torch.contiguous_format if weight.is_cuda and weight.dtype == torch.float32 else torch.channels_last
