"""LSUN as it is published: folders of lmdb whose values are encoded images (webp)."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torchvision.transforms import functional

from configs import InputError
from experiments.data import read_image, to_tensor
from experiments.evaluation.extras import optional

PREFIX = "lsun:"  # before the folder, wherever images are named


class LsunImages:
    """The images of one lmdb, in the order of its keys, cut as the DDPM and DDIM code does: the shorter side resized
    to `resolution` (bilinear, antialiased), then the centre."""

    def __init__(self, folder: Path, resolution: int) -> None:
        """Raises InputError where lmdb is not installed, and for a folder that holds no images of LSUN."""
        lmdb = optional("lmdb", "eval", "LSUN needs")
        if not (folder / "data.mdb").is_file():
            raise InputError(f"{folder} is no lmdb of LSUN: there is no data.mdb in it")
        try:
            self._environment = lmdb.open(str(folder), readonly=True, lock=False, readahead=False, meminit=False)
            with self._environment.begin() as transaction:
                self.keys = list(transaction.cursor().iternext(keys=True, values=False))
        except lmdb.Error as error:
            raise InputError(f"{folder} is no readable lmdb ({error})") from error
        if not self.keys:
            raise InputError(f"the lmdb {folder} is empty")
        self.folder, self.resolution = folder, resolution

    def __len__(self) -> int:
        return len(self.keys)

    def batch(self, indices: Sequence[int]) -> Tensor:
        with self._environment.begin(buffers=True) as transaction:
            return torch.stack([self._decode(self.keys[i], transaction.get(self.keys[i])) for i in indices])

    def _decode(self, key: bytes, encoded: memoryview) -> Tensor:
        image = read_image(io.BytesIO(encoded), 3, f"{self.folder}: {key.decode(errors='replace')}")
        image = functional.resize(image, [self.resolution])  # bilinear, antialiased
        return to_tensor(functional.center_crop(image, [self.resolution]))
