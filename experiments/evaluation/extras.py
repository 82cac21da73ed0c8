"""Packages that only some metrics need."""

from __future__ import annotations

import importlib
from importlib import metadata
from types import ModuleType

from configs import InputError

PACKAGES = {"torch_fidelity": "torch-fidelity", "open_clip": "open_clip_torch", "lpips": "lpips", "lmdb": "lmdb"}


def optional(module: str, extra: str, purpose: str) -> ModuleType:
    """The module, imported. Raises InputError, naming the pip command, where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        package = PACKAGES[module.split(".")[0]]
        raise InputError(f"{purpose} the {package} package; install it with pip install -e '.[{extra}]'") from error


def versions() -> dict[str, str]:
    """The versions of what metrics are computed with, as far as it is installed."""
    found = {}
    for package in ("torch", "torchvision", "numpy", "scikit-image", *PACKAGES.values()):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found
