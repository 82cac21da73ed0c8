"""How far one set of images is from another, image by image."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from skimage.metrics import structural_similarity
from torch import Tensor


@dataclass(frozen=True)
class Closeness:
    """Of cached images to the uncached ones of the same seeds; one entry per image."""

    psnr: tuple[float, ...]  # dB; infinite where the images are equal
    ssim: tuple[float, ...]  # 1 where they are equal

    def summary(self) -> dict[str, float | None]:
        """Mean and worst of each. A mean of infinities is reported as None: nothing moved. Where an image is NaN, so
        are they: it is close to nothing."""
        moved = [value for value in self.psnr if value != math.inf]
        return {
            "psnr_mean": float(np.mean(moved)) if moved else None,
            "psnr_worst": float(np.min(moved)) if moved else None,
            "ssim_mean": float(np.mean(self.ssim)),
            "ssim_worst": float(np.min(self.ssim)),
            "identical": len(self.psnr) - len(moved),
        }


def closeness(images: Tensor, reference: Tensor) -> Closeness:
    """images and reference (N, C, H, W) in [-1, 1]; compared in [0, 1] after clipping, before rounding to 8 bits."""
    ours, theirs = (((x.float() + 1) / 2).clamp(0, 1).double().cpu().numpy() for x in (images, reference))
    pairs = list(zip(ours, theirs, strict=True))
    return Closeness(
        psnr=tuple(psnr(a, b) for a, b in pairs),
        ssim=tuple(float(structural_similarity(a, b, channel_axis=0, data_range=1.0)) for a, b in pairs),
    )


def psnr(image: np.ndarray, reference: np.ndarray) -> float:
    """Peak signal-to-noise ratio in dB of images in [0, 1]: -10 log10(mean squared error)."""
    error = float(np.mean((image - reference) ** 2))
    return math.inf if error == 0 else -10 * math.log10(error)
