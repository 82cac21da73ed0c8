"""What a configuration says about a checkpoint: which networks it holds, and how its public files store them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from omegaconf import MISSING

import configs
from configs import InputError
from models import layouts
from models.conditioning import ConditioningConfig
from models.config import FirstStageConfig, UNetConfig


@dataclass(frozen=True)
class PartsConfig:
    """The sections of a file of configs/models that describe its networks."""

    network: UNetConfig = MISSING
    first_stage: FirstStageConfig | None = None  # of a latent diffusion model
    conditioning: ConditioningConfig | None = None  # likewise, where it is told more than x and t
    # Of the public files; our own need neither.
    attention_order: str = "legacy"  # of fused qkv channels: interleaved per head, or "new": [q | k | v]
    weights: str = "ema"  # which of the two, in a file that holds both: the moving average, or "raw"

    def __post_init__(self) -> None:
        configs.one_of(self.attention_order, ("legacy", "new"), "attention_order")
        configs.one_of(self.weights, ("ema", "raw"), "weights")


# The sections of those files that are not about networks: see ModelConfig in experiments/model.py.
OTHER_SECTIONS = ("diffusion", "checkpoints", "paper_group_norms")

Config = str | Path | Mapping[str, Any] | UNetConfig | PartsConfig


def read_config(config: Config) -> PartsConfig:
    """config: NAME of configs/models, a YAML file, a mapping of its contents (or of its `network` part), or a
    dataclass. How the public files of a network alone store it is what configs/models says of this network."""
    if isinstance(config, PartsConfig):
        return config
    if not isinstance(config, UNetConfig):
        if isinstance(config, Mapping):
            content, where = config, "config"
        else:
            content, where = configs.read(configs.find(config, "models")), str(config)
        if "network" in content:
            return _read_whole(content, where)
        config = configs.parse(UNetConfig, content, where=where)
    published, ours = _published(configs.FOLDER / "models"), _stored(config)
    known = next((each for each in published if _stored(each.network) == ours), PartsConfig(config))
    return PartsConfig(config, attention_order=known.attention_order, weights=known.weights)


def _stored(network: UNetConfig) -> dict[str, Any]:
    """What a file of a network depends on: not the size it was trained at, nor dropout."""
    return {key: value for key, value in asdict(network).items() if key not in ("resolution", "dropout")}


def _read_whole(content: Mapping[str, Any], where: str) -> PartsConfig:
    known = [item.name for item in fields(PartsConfig)]
    configs.check_keys(content, [*known, *OTHER_SECTIONS], where)
    return configs.parse(PartsConfig, {key: content[key] for key in known if key in content}, where=where)


def settle(
    tensors: layouts.Tensors, config_json: Mapping[str, Any], known: PartsConfig | None
) -> tuple[layouts.Layout, PartsConfig]:
    """The layout of a U-Net's public tensors, and the configuration that fits them: `known`, else what is found.

    Raises InputError where the layout is foreign, where config.json holds a value of the wrong type, and where `known`
    and config.json contradict each other.
    """
    layout = layouts.recognise(tensors)
    stated = layout.stated(config_json) if config_json else {}
    if known is not None:
        own = configs.parse(UNetConfig, asdict(known.network), stated, where=["the configuration", "its config.json"])
        check_agrees(known.network, {key: getattr(own, key) for key in stated})
        return layout, known
    return layout, _identify(layouts.infer(layout, tensors) | stated)


def check_agrees(given: Any, stated: Mapping[str, Any]) -> None:
    """Where a file says what it holds, a configuration given beside it must agree."""
    for key, value in stated.items():
        if key != "dropout" and not same(getattr(given, key), value):
            raise InputError(f"its own {key} is {value}, but the configuration says {getattr(given, key)}")


def same(known: Any, found: Any) -> bool:
    if isinstance(known, list | tuple) and isinstance(found, list | tuple):
        return tuple(known) == tuple(found)
    return known == found


def _identify(inferred: Mapping[str, Any]) -> PartsConfig:
    """The architecture behind what keys and shapes determine: a known configuration that agrees with all of it."""
    for known in _published(configs.FOLDER / "models"):
        if all(same(getattr(known.network, key), value) for key, value in inferred.items()):
            return known
    if "num_heads" not in inferred:
        raise InputError("its keys and shapes do not show how many heads its attention has, and no configuration of "
                         "configs/models has its architecture; give config=NAME or a YAML file")  # fmt: skip
    resolution = {"resolution": _guess_resolution(inferred)} | dict(inferred)
    return PartsConfig(configs.parse(UNetConfig, resolution, where="what its keys and shapes determine"))


@cache
def _published(folder: Path) -> list[PartsConfig]:
    """Every configuration in `folder`; read once, since that takes longer than reading a small checkpoint."""
    return [_read_whole(configs.read(path), str(path)) for path in sorted(folder.glob("*.yaml"))]


def _guess_resolution(inferred: Mapping[str, Any]) -> int:
    """The U-Net runs at any size that its levels can halve; Ho et al. put attention at 16x16, which tells the size it
    was trained at."""
    innermost, attention = len(inferred["channel_mult"]) - 1, inferred["attention_levels"]
    return max(2**innermost, 16 * 2 ** (attention[0] if attention else innermost))
