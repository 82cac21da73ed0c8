"""Images for people to look at: 8-bit conversion, PNG files, grids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from models.files import write_atomically


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, floor(255·clamp((x + 1)/2) + 0.5) as torchvision's save_image."""
    return ((x.float() + 1) / 2).clamp(0, 1).mul(255).add(0.5).floor().to(torch.uint8)


def save_png(image: Tensor, path: Path) -> None:
    """Writes one image (C, H, W) uint8, C = 1 or 3."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    picture = Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))
    write_atomically(path, lambda unfinished: picture.save(unfinished, format="png"))


def save_grid(x: Tensor, path: Path, columns: int = 8) -> None:
    """Writes images (N, C, H, W) in [-1, 1] as one PNG."""
    save_png(make_grid(to_uint8(x), nrow=columns, padding=2), path)
