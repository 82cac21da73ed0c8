"""What a sweep is to measure: written into its folder before the first row; besides the results it is all that the
report needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import configs
from configs import InputError
from models.files import write_text

NAME = "sweep.json"


@dataclass(frozen=True)
class Point:
    """A row of a sweep: where it lies in the grid, and the names of its result and of its uncached row's."""

    name: str
    at: dict[str, str]
    key: str = ""
    uncached: str = ""
    error: str = ""  # why it cannot be run


@dataclass(frozen=True)
class SweepPlan:
    """The contents of sweep.json."""

    title: str
    axes: dict[str, list[str]]  # their values, as text
    metrics: list[str]
    points: list[Point]
    left_out: list[Point] = field(default_factory=list)  # combinations that mean nothing
    config: dict[str, Any] = field(default_factory=dict)

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_text(folder / NAME, text)


def load_sweep_plan(folder: Path) -> SweepPlan:
    """Raises InputError where the folder holds no sweep."""
    path = folder / NAME
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"there is no sweep in {folder}: it lacks {NAME}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it, and the sweep writes it again") from error
    return configs.parse(SweepPlan, content, where=str(path))
