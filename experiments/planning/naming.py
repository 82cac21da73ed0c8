"""What policies and forecasters are called: in files, in tables, and in the names of what was measured with them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from caching import FORECASTERS, POLICIES, AdaptivePolicy, Forecaster
from configs import InputError


def describe_forecaster(forecaster: Forecaster) -> dict[str, Any]:
    """A forecaster's settings as a configuration holds them."""
    return {"name": _name(forecaster, FORECASTERS), **asdict(forecaster)}


def describe_adaptive(policy: AdaptivePolicy) -> dict[str, Any]:
    """An adaptive policy's settings as a configuration holds them."""
    return {"name": _name(policy, POLICIES), **asdict(policy)}


def words(forecaster: Forecaster) -> str:
    """A forecaster in a table: "lagrange 2 in log-SNR", "damped share=0.5"."""
    settings = describe_forecaster(forecaster)
    name, order, clock = (settings.pop(key, None) for key in ("name", "order", "clock"))
    parts = [name, *([str(order)] if order is not None else []), *(["in log-SNR"] if clock == "log_snr" else [])]
    scalars = {key: value for key, value in settings.items() if not isinstance(value, list | dict)}
    return " ".join([*parts, *(f"{key}={value}" for key, value in scalars.items())])


def _name(thing: object, registry: Mapping[str, type]) -> str:
    cls = type(thing)
    for name, known in registry.items():
        if known is cls:
            return name
    raise InputError(f"the class {cls.__name__} has no name by which results could be told apart; register it: "
                     "@register for policies, @register_forecaster for forecasters")  # fmt: skip
