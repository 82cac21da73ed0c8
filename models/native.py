"""Our own checkpoint layout: one safetensors file whose metadata says what the network is."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import configs
from configs import InputError
from models.config import UNetConfig
from models.files import write_safetensors
from models.layouts import pick
from models.reading import State
from models.unet import UNet

FORMAT = "unet/1"


def save(network: UNet, path: str | Path, *, dtype: torch.dtype | None = None, **records: Mapping[str, Any]) -> None:
    """Writes the weights with the network's configuration in the metadata.

    dtype: stores the weights in this precision. records: more mappings for the metadata, e.g. `diffusion` (the noise
    schedule trained on) and `training` (how, on what, for how long). The file appears whole or not at all.
    Raises InputError for a transformed network, whose modules are not those of the layout.
    """
    if type(network) is not UNet:
        raise InputError(f"a {type(network).__name__} computes what its U-Net does, but is not laid out as one; save "
                         "the network that it was made from")  # fmt: skip
    metadata = {"format": FORMAT, "network": json.dumps(asdict(network.config))}
    metadata |= {name: json.dumps(record) for name, record in records.items()}
    weights = {name: value.detach().to("cpu", dtype).contiguous() for name, value in network.state_dict().items()}
    write_safetensors(Path(path), weights, metadata)


def is_native(state: State) -> bool:
    return state.metadata.get("format") == FORMAT


def network_config(state: State) -> UNetConfig:
    """The network's configuration. Raises InputError for damaged metadata."""
    content = record(state, "network")
    if not isinstance(content, dict):
        raise InputError("its metadata does not say what the network is")
    return configs.parse(UNetConfig, content, where="its metadata")


def weights(state: State, network: UNet) -> dict[str, Tensor]:
    """The weights of `network`. Raises InputError for a missing key, a key left over and a shape that differs."""
    return pick(state.tensors, {name: (name,) for name in network.state_dict()}, network, "native")


def records(state: State) -> dict[str, Any]:
    """What `save` was given besides the network."""
    if not is_native(state):
        return {}
    return {name: record(state, name) for name in state.metadata if name not in ("format", "network")}


def record(state: State, name: str) -> Any:
    """One of the mappings in the metadata; None where there is none. Raises InputError where it is damaged."""
    try:
        return json.loads(state.metadata.get(name, "null"))
    except ValueError as error:
        raise InputError(f"its metadata {name!r} is not JSON ({error})") from error
