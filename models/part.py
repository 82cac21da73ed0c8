"""The networks of a model, and where files that hold several of them keep each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from configs import InputError


@dataclass(frozen=True)
class Part:
    """One network of a model."""

    name: str
    prefix: str  # of its keys in a single-file checkpoint of latent-diffusion or Stable Diffusion
    folders: tuple[str, ...]  # of a diffusers pipeline, in order of preference
    files: tuple[str, ...]  # in such a folder, likewise


_DIFFUSERS_FILES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
UNET = Part("U-Net", "model.diffusion_model.", ("unet",), _DIFFUSERS_FILES)
FIRST_STAGE = Part("first stage", "first_stage_model.", ("vae", "vqvae"), _DIFFUSERS_FILES)
CONDITIONER = Part("conditioner", "cond_stage_model.", ("text_encoder",), ("model.safetensors", "pytorch_model.bin"))
PARTS = (UNET, FIRST_STAGE, CONDITIONER)


def section(tensors: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    """The tensors of `part` without their prefix. Those of a file of one network alone are returned as they are."""
    if not any(key.startswith(other.prefix) for key in tensors for other in PARTS):
        return dict(tensors)
    return {key.removeprefix(part.prefix): value for key, value in tensors.items() if key.startswith(part.prefix)}


def only_section(tensors: Mapping[str, Tensor], part: Part) -> dict[str, Tensor]:
    """As `section`, of a file that must have it. Raises InputError where it has not."""
    found = section(tensors, part)
    if not found:
        raise InputError(f"it holds no {part.name}")
    return found


def moving_average(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The moving average of the U-Net's weights, under the U-Net's names; empty where the file has none.

    It is stored under the names of the weights without their dots. Raises InputError where it is incomplete.
    """
    dotless = {name: "model_ema.diffusion_model" + name.replace(".", "") for name in section(tensors, UNET)}
    found = {name: tensors[key] for name, key in dotless.items() if key in tensors}
    if found and len(found) < len(dotless):
        lacking = next(key for key in dotless.values() if key not in tensors)
        raise InputError(f"its moving average is incomplete: it lacks {lacking!r}")
    return found
