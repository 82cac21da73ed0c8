"""Settings written as lists stand for every combination: interval: [3, 5] and branch: [0, 1] are four policies."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

from caching import POLICIES


def expand_policy(settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One mapping per combination of the list-valued settings that are single values in the policy itself."""
    cls = POLICIES.get(str(settings.get("name", "none")))
    hints = get_type_hints(cls) if cls else {}
    axes = []
    for key, value in settings.items():
        is_axis = isinstance(value, list) and not _takes_list(hints.get(key))
        axes.append([(key, item) for item in value] if is_axis else [(key, value)])
    return [dict(combination) for combination in itertools.product(*axes)]


def label(settings: Mapping[str, Any]) -> str:
    """A policy's settings as people write them: "uniform interval=5 branch=2"."""
    words = [f"{key}={value}" for key, value in settings.items() if key != "name" and not isinstance(value, list)]
    return " ".join([str(settings.get("name", "none")), *words])


def folder_name(settings: Mapping[str, Any]) -> str:
    """The same, fit for a file system."""
    return label(settings).replace(" ", "-").replace("=", "")


def _takes_list(hint: Any) -> bool:
    return any(get_origin(option) is list for option in (hint, *get_args(hint)))
