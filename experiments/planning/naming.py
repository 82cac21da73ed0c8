"""What policies and forecasters are called: in files, in tables, and in the names of what was measured with them."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from caching import FORECASTERS, POLICIES, AdaptivePolicy, Forecaster
from configs import InputError


def settings_of(thing: Forecaster | AdaptivePolicy) -> dict[str, Any]:
    """The settings of a forecaster or policy as a configuration holds them. Raises InputError for a class without a
    name."""
    for registry in (FORECASTERS, POLICIES):
        for name, cls in registry.items():
            if cls is type(thing):
                return {"name": name, **asdict(thing)}
    raise InputError(f"the class {type(thing).__name__} has no name by which results could be told apart; register it: "
                     "@register for policies, @register_forecaster for forecasters")  # fmt: skip


def words(forecaster: Forecaster) -> str:
    """A forecaster in a table: "lagrange 2 in log-SNR", "damped share=0.5"."""
    settings = settings_of(forecaster)
    name, order, clock = (settings.pop(key, None) for key in ("name", "order", "clock"))
    parts = [name, *([str(order)] if order is not None else []), *(["in log-SNR"] if clock == "log_snr" else [])]
    scalars = {key: value for key, value in settings.items() if not isinstance(value, list | dict)}
    return " ".join([*parts, *(f"{key}={value}" for key, value in scalars.items())])
