"""Images for people to look at: 8-bit conversion, PNG files, grids, plots."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor
from torchvision.utils import make_grid

from models.files import write_atomically, write_bytes


def to_uint8(x: Tensor) -> Tensor:
    """Images in [-1, 1] -> uint8, floor(255·clamp((x + 1)/2) + 0.5) as torchvision's save_image, ermongroup and
    DeepCache. (CompVis' sample_diffusion.py, txt2img and guided-diffusion cut: half a level darker on average.)"""
    return ((x.float() + 1) / 2).clamp(0, 1).mul(255).add(0.5).floor().to(torch.uint8)


def to_image(image: Tensor) -> Image.Image:
    """(C, H, W) uint8, C = 1 or 3 -> a PIL image of mode L or RGB."""
    pixels = image.permute(1, 2, 0).cpu().numpy()
    return Image.fromarray(np.ascontiguousarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0]))


def encode_png(image: Tensor) -> bytes:
    """One image (C, H, W) uint8, C = 1 or 3, as the bytes of a PNG file."""
    file = io.BytesIO()
    to_image(image).save(file, format="png")
    return file.getvalue()


def save_png(image: Tensor, path: Path) -> None:
    """Writes one image (C, H, W) uint8, C = 1 or 3."""
    write_bytes(path, encode_png(image))


def save_grid(x: Tensor, path: Path, columns: int = 8) -> None:
    """Writes images (N, C, H, W) in [-1, 1] as one PNG."""
    save_png(make_grid(to_uint8(x), nrow=columns, padding=2), path)


def save_figure(figure: Figure, path: Path) -> None:
    """Writes a PNG, whole or not at all."""
    write_atomically(path, lambda unfinished: figure.savefig(unfinished, format="png", dpi=110, bbox_inches="tight"))
