"""Our own checkpoint layout: one safetensors file whose metadata says what the network is."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import configs
from models.config import UNetConfig
from models.reading import State
from models.unet import UNet

FORMAT = "unet/1"


def save(network: UNet, path: str | Path, *, dtype: torch.dtype | None = None, **records: Mapping[str, Any]) -> None:
    """Writes the weights with the network's configuration in the metadata.

    dtype: stores the weights in this precision. records: more mappings for the metadata, e.g. `diffusion` (the noise
    schedule trained on) and `training` (how, on what, for how long). The file appears whole or not at all.
    """
    path = Path(path)
    metadata = {"format": FORMAT, "network": json.dumps(asdict(network.config))}
    metadata |= {name: json.dumps(record) for name, record in records.items()}
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(path.name + ".part")
    save_file(weights, unfinished, metadata)
    os.replace(unfinished, path)


def is_native(state: State) -> bool:
    return state.metadata.get("format") == FORMAT


def network_config(state: State) -> UNetConfig:
    return configs.parse(UNetConfig, json.loads(state.metadata["network"]), where="its metadata")


def records(state: State) -> dict[str, Any]:
    """What `save` was given besides the network."""
    if not is_native(state):
        return {}
    return {name: json.loads(text) for name, text in state.metadata.items() if name not in ("format", "network")}
