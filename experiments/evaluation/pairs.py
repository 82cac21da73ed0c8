"""How far images are from those of the same name in another folder: cached from uncached ones, say."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from configs import InputError
from experiments.evaluation.extras import optional
from experiments.evaluation.sets import ImageSet
from experiments.metrics import Closeness, closeness
from models.hub import reason

SSIM_WINDOW = 7  # pixels, scikit-image's own
Distance = Callable[[Tensor, Tensor], Tensor]  # images (N, C, H, W) in [-1, 1], twice -> (N,)


def compare(images: ImageSet, reference: ImageSet, batch_size: int = 64) -> Closeness:
    """PSNR and SSIM of every image to the one of its name in `reference`, as they were written, in 8 bits.

    Raises InputError where `reference` lacks some, for images of another size, and for smaller ones than SSIM's window.
    """
    _, height, width = images.shape
    if min(height, width) < SSIM_WINDOW:
        raise InputError(f"SSIM looks at {SSIM_WINDOW}x{SSIM_WINDOW} pixels at a time, but the images of {images.name} "
                         f"are {height}x{width}")  # fmt: skip
    psnr, ssim = [], []
    for ours, theirs in _pairs(images, reference, batch_size):
        part = closeness(ours, theirs)
        psnr.extend(part.psnr)
        ssim.extend(part.ssim)
    return Closeness(tuple(psnr), tuple(ssim))


def perceptual(images: ImageSet, reference: ImageSet, distance: Distance, batch_size: int = 64) -> list[float]:
    """`distance` of every image to the one of its name in `reference`. Raises InputError as `compare`."""
    values: list[float] = []
    for ours, theirs in _pairs(images, reference, batch_size):
        values += distance(ours.expand(-1, 3, -1, -1), theirs.expand(-1, 3, -1, -1)).tolist()
    return values


def load_lpips(device: torch.device, pretrained: bool = True) -> Distance:
    """LPIPS (Zhang et al. 2018), version 0.1 on AlexNet, whose weights torchvision downloads.

    pretrained: False leaves AlexNet's weights random.
    Raises InputError where the package, or the weights, are not to be had.
    """
    lpips = optional("lpips", "lpips", "LPIPS needs")
    try:
        with warnings.catch_warnings():  # it asks torchvision for AlexNet in the way of years ago
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net="alex", pnet_rand=not pretrained, verbose=False).to(device).eval()
    except (OSError, RuntimeError) as error:
        kept = Path(torch.hub.get_dir()) / "checkpoints"
        raise InputError(f"AlexNet's weights could not be downloaded ({reason(error)}); put alexnet-owt-7be5be79.pth "
                         f"of download.pytorch.org/models into {kept}") from error  # fmt: skip

    @torch.inference_mode()
    def distance(ours: Tensor, theirs: Tensor) -> Tensor:
        return network(ours.to(device), theirs.to(device)).flatten().cpu()

    return distance


def _pairs(images: ImageSet, reference: ImageSet, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Batches of images in [-1, 1] and of their counterparts."""
    where = _counterparts(images, reference)
    with tqdm(total=len(images), unit="image", desc=f"{images.name} against {reference.name}") as bar:
        for start in range(0, len(images), batch_size):
            batch = range(start, min(start + batch_size, len(images)))
            ours, theirs = images.images.batch(batch), reference.images.batch([where[i] for i in batch])
            yield ours.float() / 127.5 - 1, theirs.float() / 127.5 - 1
            bar.update(len(batch))


def _counterparts(images: ImageSet, reference: ImageSet) -> Sequence[int]:
    """Where in `reference` the image of each name is."""
    if images.shape != reference.shape:
        raise InputError(f"the images of {images.name} are {'x'.join(map(str, images.shape))}, those of "
                         f"{reference.name} {'x'.join(map(str, reference.shape))}")  # fmt: skip
    positions = {name: position for position, name in enumerate(reference.names)}
    lacking = [name for name in images.names if name not in positions]
    if lacking:
        raise InputError(f"{reference.name} lacks {len(lacking)} of the {len(images)} images of {images.name}, "
                         f"{lacking[0]} first")  # fmt: skip
    return [positions[name] for name in images.names]
