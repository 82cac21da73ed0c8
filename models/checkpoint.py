"""`load`: any supported checkpoint -> a network in eval mode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

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
    published: str = ""  # name of the published file that these bytes are, where that is known
    records: Mapping[str, Any] = field(default_factory=dict)  # our own checkpoints': diffusion, training

    @cached_property
    def sha256(self) -> str:
        """Of the file; computed when asked for, since it reads all of it."""
        return digest(self.file, "sha256") if self.file else ""


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
      UNetConfig. None: the file's own, else the configuration whose architecture it has, else what its keys and
      shapes determine.
    The layout is recognised from the keys and translated strictly: every key used, every shape equal.
    `network.provenance` says what was loaded.

    Raises InputError, in one sentence, for a file that is missing, truncated, damaged or foreign, and for a
    configuration that does not fit it.
    """
    wanted, attention_order = _read_config(config)
    if str(checkpoint) == "random":
        if wanted is None:
            raise InputError("random weights need a configuration, e.g. config=cifar10")
        return _finish(random(wanted), Provenance("random", "none"), dtype, device)
    state = reading.read(fetch(checkpoint))
    try:
        if native.is_native(state):
            found, weights, layout = native.network_config(state), state.tensors, "native"
            _check_equal(found, wanted)
        else:
            public = layouts.recognise(state.tensors)
            inferred = public.infer(state.tensors)
            if state.config_json:
                inferred |= layouts.from_config_json(state.config_json)
            found = wanted or _identify(inferred)
            weights, layout = layouts.translate(state.tensors, public, found, attention_order), public.name
    except InputError as error:
        raise InputError(f"{state.file}: {error}") from error
    except KeyError as error:
        raise InputError(
            f"{state.file} lacks {error}, which its layout always has; it is damaged or foreign"
        ) from error
    with torch.device("meta"):
        network = UNet(found)
    # Assigned, not copied: at no time are there two sets of weights.
    network.load_state_dict({key: value.to(dtype) for key, value in weights.items()}, assign=True)
    published = known_by_md5(state.file) if layout == layouts.PESSER.name else ""
    provenance = Provenance(str(checkpoint), layout, state.file, published, native.records(state))
    return _finish(network, provenance, dtype, device)


def random(config: UNetConfig, seed: int = 0) -> UNet:
    """The network with reproducible random weights: for costs, speed and plumbing, not for images."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return UNet(config)


def _finish(network: UNet, provenance: Provenance, dtype: torch.dtype, device: torch.device | str) -> UNet:
    network.provenance = provenance
    return network.to(device, dtype).eval().requires_grad_(False)


def _read_config(config: Config | None) -> tuple[UNetConfig | None, str]:
    """The architecture that `config` means, and the order of fused qkv channels in its public files."""
    if config is None or isinstance(config, UNetConfig):
        return config, "legacy"
    if isinstance(config, Mapping):
        content, where = config, "config"
    else:
        content, where = configs.read(configs.find(config, "models")), str(config)
    order = content.get("attention_order", "legacy")
    configs.one_of(order, ("legacy", "new"), "attention_order")
    return configs.parse(UNetConfig, content.get("network", content), where=where), order


def _identify(inferred: Mapping[str, Any]) -> UNetConfig:
    """The architecture behind what keys and shapes determine: a known configuration that agrees with all of it."""
    for path in sorted((configs.FOLDER / "models").glob("*.yaml")):
        known, _ = _read_config(path)
        if all(_same(getattr(known, key), value) for key, value in inferred.items()):
            return known
    if "resolution" not in inferred:
        inferred = {**inferred, "resolution": _guess_resolution(inferred)}
    if "num_heads" not in inferred:
        raise InputError("its keys and shapes do not show how many heads its attention has, and no configuration of "
                         "configs/models has its architecture; give config=NAME or a YAML file")  # fmt: skip
    return configs.parse(UNetConfig, inferred, where="the checkpoint")


def _guess_resolution(inferred: Mapping[str, Any]) -> int:
    """The U-Net runs at any size; Ho et al. put attention at 16x16, which tells the size it was trained at."""
    levels = inferred["attention_levels"]
    return 16 * 2 ** (levels[0] if levels else len(inferred["channel_mult"]) - 1)


def _same(known: Any, inferred: Any) -> bool:
    return tuple(known) == tuple(inferred) if isinstance(inferred, list) else known == inferred


def _check_equal(found: UNetConfig, wanted: UNetConfig | None) -> None:
    """Our own files say what they are; a configuration given beside them must agree."""
    if wanted is None:
        return
    for key in (item.name for item in fields(UNetConfig)):
        if key != "dropout" and getattr(found, key) != getattr(wanted, key):
            raise InputError(f"its {key} is {getattr(found, key)}, but the configuration says {getattr(wanted, key)}")
