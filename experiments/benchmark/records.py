"""The results: one JSON line per measurement, kept case by case."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from configs import InputError
from experiments.benchmark.settings import Case
from experiments.digest import json_digest
from models.files import write_text

Record = dict[str, Any]


def identity(case: Case, environment: Record) -> str:
    """Of one case on one machine with these versions: what has to be measured anew where it changes."""
    return json_digest([asdict(case), environment])


class Records:
    """A file of JSON lines. The measurements of a case enter it together, in the place of earlier ones of that case."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines = read(path) if path.exists() else []

    def has(self, name: str) -> bool:
        """Has the case of this identity been measured?"""
        return any(line["identity"] == name for line in self.lines)

    def put(self, lines: Sequence[Record]) -> None:
        """Writes the measurements of one case; the file is whole at any time."""
        names = {line["case"] for line in lines}
        self.lines = [line for line in self.lines if line["case"] not in names] + list(lines)
        text = "".join(json.dumps(line) + "\n" for line in self.lines)
        write_text(self.path, text)


def read(path: Path) -> list[Record]:
    """The measurements in a file. Raises InputError where it is none of ours."""
    lines = []
    for number, line in enumerate(path.read_bytes().splitlines(), start=1):
        try:
            record = json.loads(line)
            record["case"], record["identity"], record["variant"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"line {number} of {path} is no measurement; remove it, or choose another out=") from error
        lines.append(record)
    return lines
