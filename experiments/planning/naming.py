"""What policies and forecasters are called: in files, in tables, and in the names of what was measured with them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caching import FORECASTERS, POLICIES, AdaptivePolicy, Forecaster
from experiments.digest import json_digest


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


def code_of(cls: type) -> dict[str, str]:
    """What the results of a policy or forecaster depend on besides its settings. Of the user's own it is the file that
    defines it, whose formulas are edited between one run and the next; of this project's, nothing."""
    file = getattr(sys.modules.get(cls.__module__), "__file__", None)
    if file is None or cls.__module__.partition(".")[0] == "caching":
        return {}
    return {"code": json_digest(Path(file).read_text(encoding="utf-8"))}


def _name(thing: object, registry: Mapping[str, type]) -> str:
    return next(name for name, cls in registry.items() if cls is type(thing))
