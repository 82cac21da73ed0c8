"""Conversion of any supported checkpoint into our own layout."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from omegaconf import MISSING

import configs
import models
from configs import InputError
from experiments.model import model_config
from experiments.precision import PRECISIONS
from models.files import check_writable


@dataclass(frozen=True)
class ConvertConfig:
    """One run of scripts/convert.py."""

    checkpoint: str = MISSING  # file, folder, URL, hf://owner/name or published name
    model: str | None = None  # NAME in configs/models or a YAML file; null: found from the checkpoint's architecture
    precision: str = "fp32"  # of the stored weights: fp32 | bf16 | fp16
    out: str = MISSING  # the safetensors file to write

    def __post_init__(self) -> None:
        configs.one_of(self.precision, PRECISIONS, "precision")


def convert(config: ConvertConfig) -> str:
    """Writes the U-Net of a checkpoint, with its configuration and its noise schedule, where known -> what was done.

    Raises InputError as models.load, and where `out` exists or is no .safetensors file; OSError, before anything is
    loaded, where it cannot be written.
    """
    out = Path(config.out)
    if out.suffix != ".safetensors":
        raise InputError(f"out must end in .safetensors, not {out.name!r}")
    if out.exists():
        raise InputError(f"{out} exists already; choose another out=FILE")
    dtype = PRECISIONS[config.precision]
    if config.checkpoint == "random" and config.model is None:
        raise InputError("random weights need a model, e.g. model=cifar10")
    check_writable(out)
    network = models.load(config.checkpoint, config.model, dtype=dtype)
    records = dict(network.provenance.records)
    if config.model is not None:
        records["diffusion"] = asdict(model_config(config.model).diffusion)
    models.save(network, out, dtype=dtype, **records)
    parameters = sum(parameter.numel() for parameter in network.parameters())
    return f"wrote {out}: {parameters:,} parameters in {config.precision}, from {network.provenance.layout}"
