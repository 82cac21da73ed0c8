"""What a sweep is to measure: written into its folder before the first row; besides the results it is all that the
report needs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

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
    imports: list[str] = field(default_factory=list)  # words that make the user's own policies known

    def save(self, folder: Path) -> None:
        text = json.dumps(asdict(self), indent=1) + "\n"
        write_text(folder / NAME, text)


def load_sweep_plan(folder: Path) -> SweepPlan:
    """Raises InputError where the folder holds no sweep, or its file is damaged."""
    path = folder / NAME
    try:
        planned = SweepPlan(**json.loads(path.read_text(encoding="utf-8")))
        points, left_out = ([Point(**point) for point in each] for each in (planned.points, planned.left_out))
        return replace(planned, points=points, left_out=left_out)  # configs.parse would take seconds
    except FileNotFoundError:
        why = f"it lacks {NAME}" if folder.exists() else "it does not exist"
        raise InputError(f"there is no sweep in {folder}: {why}; the sweep without only_render writes it") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); the sweep without only_render writes it again") from error
