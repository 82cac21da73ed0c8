"""Reading checkpoint files: tensors and plain metadata, never code."""

from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from configs import InputError
from models.part import UNET, Part
from models.stand_ins import stand_ins


@dataclass(frozen=True)
class State:
    """Tensors as stored, and what else the file or folder says."""

    tensors: dict[str, Tensor]
    file: Path | None  # the file that holds the tensors; None: they are in memory alone
    metadata: dict[str, str] = field(default_factory=dict)  # of a safetensors file
    config_json: dict[str, Any] = field(default_factory=dict)  # beside a diffusers file


def read(path: Path, part: Part = UNET) -> State:
    """Reads a checkpoint file with all it holds, or `part` of a diffusers folder (of a whole pipeline: its sub-folder).

    Tensors stay memory-mapped where the format allows. Raises InputError, in one sentence, for a file that is
    missing, truncated, not a checkpoint, or more than tensors.
    """
    file = weights_in(path, part)
    _check_readable(file)
    if file.suffix == ".safetensors":
        tensors, metadata = _read_safetensors(file)
    else:
        tensors, metadata = _unwrap(_read_torch(file), file), {}
    if not tensors:
        raise InputError(f"{file} is no state dict; it holds no tensors at its top level")
    return State(tensors, file, metadata, _read_config_json(file, part))


OURS = "model.safetensors"  # in the folder of a training


def weights_in(path: Path, part: Part = UNET) -> Path:
    """The file that holds the tensors: `path` itself, of a folder in diffusers' layout that of `part`, and of one that
    scripts/train.py has left its checkpoint."""
    if path.is_file():
        return path
    if not path.is_dir():
        raise InputError(f"there is no checkpoint {path}")
    for folder in (path, *(path / name for name in part.folders)):
        for name in part.files:
            if (folder / name).is_file():
                return folder / name
    if part == UNET and (path / OURS).is_file():
        return path / OURS
    raise InputError(f"the folder {path} holds none of {', '.join(part.files)}, nor does its sub-folder "
                     f"{' or '.join(part.folders)}")  # fmt: skip


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb") as opened:
            if not opened.read(1):
                raise InputError(f"{file} is empty")
    except OSError as error:
        raise InputError(f"{file} cannot be read ({error.strerror})") from error


def _read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(file, framework="pt") as opened:
            return {key: opened.get_tensor(key) for key in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except Exception as error:  # whatever its parser stumbles over
        raise InputError(f"{file} is truncated or not a safetensors file") from error


def _read_torch(file: Path) -> Any:
    try:
        # Files older than torch 1.6 are no zip archives and cannot be mapped.
        zipped = zipfile.is_zipfile(file)
        with torch.serialization.safe_globals(stand_ins(file) if zipped else []):
            return torch.load(file, map_location="cpu", weights_only=True, mmap=zipped)
    except Exception as error:  # damaged bytes make the unpickler fail in many ways
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):  # it names a class or function
            raise InputError(f"{file} holds Python objects beyond tensors, which are never loaded; "
                             "save its state dict alone, or as safetensors") from error  # fmt: skip
        raise InputError(f"{file} is truncated or not a PyTorch checkpoint") from error


def _unwrap(content: Any, file: Path) -> dict[str, Tensor]:
    """The state dict out of whatever a code base saved around it.

    ermongroup/ddim saves a list [model, optimizer, epoch, step, EMA]; sampling uses the EMA, its last entry.
    `module.` prefixes are DataParallel's.
    """
    if isinstance(content, list) and content:
        has_ema = len(content) > 4 and isinstance(content[-1], Mapping)
        content = content[-1] if has_ema else content[0]
    if isinstance(content, Mapping) and isinstance(content.get("state_dict"), Mapping):
        content = content["state_dict"]
    if not isinstance(content, Mapping):
        raise InputError(f"{file} holds a {type(content).__name__}, not a state dict")
    tensors = {str(key): value for key, value in content.items() if isinstance(value, Tensor)}
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def _read_config_json(file: Path, part: Part) -> dict[str, Any]:
    path = file.parent / "config.json"
    if not file.name.startswith(tuple(name.split(".")[0] for name in part.files)) or not path.is_file():
        return {}
    try:
        config = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is not readable JSON ({error})") from error
    if not isinstance(config, dict):
        raise InputError(f"{path} must hold a mapping of keys to values")
    return config
