"""`load`: any supported checkpoint -> a network in eval mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import configs
from configs import InputError
from models import layouts, native, reading
from models.config import UNetConfig
from models.download import digest, fetch, known_by_md5
from models.unet import UNet

Config = str | Path | Mapping[str, Any] | UNetConfig


@dataclass(frozen=True)
class Provenance:
    """Where a network's weights come from."""

    source: str  # as asked for: a path, URL, hf://owner/name, a published name, or "random"
    layout: str
    file: Path | None = None
    records: Mapping[str, Any] = field(default_factory=dict)  # our own checkpoints': diffusion, training

    # Both read the whole file, so they are computed when asked for.
    @cached_property
    def sha256(self) -> str:
        """Of the file; "" where there is none."""
        return digest(self.file, "sha256") if self.file else ""

    @cached_property
    def published(self) -> str:
        """Name of the published file that these bytes are; "" where they are none that configs/models knows."""
        return known_by_md5(self.file) if self.file else ""


def load(
    checkpoint: str | Path,
    config: Config | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> UNet:
    """Reads a checkpoint of any supported layout -> the network, in eval mode, without gradients.

    checkpoint: a file or folder, a URL, `hf://owner/name`, the name of a published file of configs/models (such as
      `ema_cifar10`), or `random` for reproducible random weights.
    config: NAME of configs/models, a YAML file, a mapping of its contents (or of its `network` part), or a
      UNetConfig. None: what the file itself says, else the configuration whose architecture it has, else (for
      networks of Ho et al.) what its keys and shapes determine.
    The layout is recognised from the keys and translated strictly: every key used, every shape equal.
    `network.provenance` says what was loaded.

    Raises InputError, in one sentence, for a file that is missing, truncated, damaged or foreign, and for a
    configuration that does not fit it.
    """
    known = None if config is None else _read_config(config)
    if str(checkpoint) == "random":
        if known is None:
            raise InputError("random weights need a configuration, e.g. config=cifar10")
        return _finish(random(known.network), Provenance("random", "none"), dtype, device)
    state = reading.read(fetch(checkpoint))
    try:
        network, weights, layout = _understand(state, known)
        provenance = Provenance(str(checkpoint), layout, state.file, native.records(state))
    except InputError as error:
        raise InputError(f"{state.file} cannot be loaded: {error}") from error
    # Assigned, not copied: at no time are there two sets of weights.
    network.load_state_dict({key: value.to(dtype) for key, value in weights.items()}, assign=True)
    return _finish(network, provenance, dtype, device)


def random(config: UNetConfig, seed: int = 0) -> UNet:
    """The network with reproducible random weights: for costs, speed and plumbing, not for images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(config)


def _finish(network: UNet, provenance: Provenance, dtype: torch.dtype, device: torch.device | str) -> UNet:
    network.provenance = provenance
    return network.to(device, dtype).eval().requires_grad_(False)


@dataclass(frozen=True)
class _Known:
    """A configuration: the architecture, and the order of the fused qkv channels in its public files."""

    network: UNetConfig
    attention_order: str = "legacy"


def _read_config(config: Config) -> _Known:
    if isinstance(config, UNetConfig):
        return _Known(config)
    if isinstance(config, Mapping):
        content, where = config, "config"
    else:
        content, where = configs.read(configs.find(config, "models")), str(config)
    order = content.get("attention_order", "legacy")
    configs.one_of(order, ("legacy", "new"), f"{where}: attention_order")
    return _Known(configs.parse(UNetConfig, content.get("network", content), where=where), order)


def _understand(state: reading.State, known: _Known | None) -> tuple[UNet, dict[str, Tensor], str]:
    """The network that a file holds, on the meta device; its weights under our names; the name of the layout."""
    if native.is_native(state):
        own = native.network_config(state)
        _check_agrees(known, asdict(own))
        network = _without_weights(own)
        return network, native.weights(state, network), "native"
    layout = layouts.recognise(state.tensors)
    stated = layout.stated(state.config_json) if state.config_json else {}
    _check_agrees(known, stated)
    known = known or _identify(_infer(layout, state.tensors) | stated)
    network = _without_weights(known.network)
    return network, layouts.translate(state.tensors, layout, network, known.attention_order), layout.name


def _without_weights(config: UNetConfig) -> UNet:
    with torch.device("meta"):
        return UNet(config)


def _check_agrees(known: _Known | None, stated: Mapping[str, Any]) -> None:
    """Where a file says what it holds, a configuration given beside it must agree."""
    if known is None:
        return
    for key, value in stated.items():
        if key != "dropout" and getattr(known.network, key) != value:
            raise InputError(f"its own {key} is {value}, but the configuration says {getattr(known.network, key)}")


def _infer(layout: layouts.Layout, tensors: layouts.Tensors) -> dict[str, Any]:
    """What keys and shapes determine of the architecture."""
    try:
        return layout.infer(tensors)
    except KeyError as error:
        raise InputError(f"it lacks {error}, which every network in the layout {layout.name} has") from error
    except (IndexError, ZeroDivisionError) as error:
        raise InputError(f"its tensors do not have the shapes of the layout {layout.name}") from error


def _identify(inferred: Mapping[str, Any]) -> _Known:
    """The architecture behind what keys and shapes determine: a known configuration that agrees with all of it."""
    for path in sorted((configs.FOLDER / "models").glob("*.yaml")):
        known = _read_config(path)
        if all(_same(getattr(known.network, key), value) for key, value in inferred.items()):
            return known
    if "num_heads" not in inferred:
        raise InputError("its keys and shapes do not show how many heads its attention has, and no configuration of "
                         "configs/models has its architecture; give config=NAME or a YAML file")  # fmt: skip
    resolution = {"resolution": _guess_resolution(inferred)} | dict(inferred)
    return _Known(configs.parse(UNetConfig, resolution, where="what its keys and shapes determine"))


def _guess_resolution(inferred: Mapping[str, Any]) -> int:
    """The U-Net runs at any size; Ho et al. put attention at 16x16, which tells the size it was trained at."""
    levels = inferred["attention_levels"]
    return 16 * 2 ** (levels[0] if levels else len(inferred["channel_mult"]) - 1)


def _same(known: Any, inferred: Any) -> bool:
    return tuple(known) == tuple(inferred) if isinstance(inferred, list) else known == inferred
