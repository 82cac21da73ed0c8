"""The result of an evaluation: as a table for people, as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from configs import InputError
from experiments.evaluation.extras import versions
from experiments.reports.tables import markdown
from models.files import write_text

Values = Mapping[str, float | None]


class _Column(NamedTuple):
    """One column of the table: a metric, or two that are read together."""

    heading: str
    keys: tuple[str, ...]
    form: str
    between: str = " / "

    def cell(self, values: Values) -> str:
        if values.get("identical") and self.keys[0] == "psnr_mean" and values.get("psnr_mean") is None:
            return "identical"
        found = [value for key in self.keys if (value := values.get(key)) is not None]
        return self.between.join(f"{value:{self.form}}" for value in found)


COLUMNS = (
    _Column("FID", ("FID",), ".2f"),
    _Column("sFID", ("sFID",), ".2f"),
    _Column("IS", ("IS", "IS_std"), ".2f", " ± "),
    _Column("KID", ("KID", "KID_std"), ".5f", " ± "),
    _Column("precision", ("precision",), ".4f"),
    _Column("recall", ("recall",), ".4f"),
    _Column("PSNR mean / worst", ("psnr_mean", "psnr_worst"), ".1f"),
    _Column("SSIM mean / worst", ("ssim_mean", "ssim_worst"), ".4f"),
    _Column("LPIPS mean / worst", ("lpips_mean", "lpips_worst"), ".4f"),
    _Column("CLIP", ("CLIP",), ".2f"),
)


@dataclass(frozen=True)
class Evaluation:
    """What the samples in a folder are worth."""

    folder: str
    reference: str | None
    split: str  # of the reference
    against: str | None
    metrics: list[str]  # asked for
    images: dict[str, int]  # by set of samples
    values: dict[str, dict[str, float]]  # by set and metric
    networks: dict[str, str]  # sha256 of the weights by name
    settings: list[str]  # how each metric is defined here
    missing: list[str]  # what could not be had, and why
    versions: dict[str, str] = field(default_factory=versions)

    @property
    def file(self) -> Path:
        """Where it is written."""
        return metrics_file(self.folder)

    def save(self) -> None:
        """Adds it to those in its file, in the place of an earlier one of the same question to as many images.

        Raises InputError where the file holds anything else.
        """
        ours = asdict(self)
        others = [each for each in earlier(self.file) if any(each.get(key) != ours[key] for key in QUESTION)]
        write_text(self.file, json.dumps([*others, ours], indent=2) + "\n")

    def __str__(self) -> str:
        present = {key for values in self.values.values() for key in values}
        distances = [_Column(key, (key,), ".4g") for key in sorted(present) if key.startswith("FD-")]
        columns = [column for column in (*COLUMNS, *distances) if present & set(column.keys)]
        rows = [["samples", "images", *(column.heading for column in columns)]]
        for name, values in self.values.items():
            rows.append([name, str(self.images[name]), *(column.cell(values) for column in columns)])
        return "\n".join([*markdown(rows), "", *self.settings, *self.missing])


QUESTION = ("reference", "split", "against", "metrics", "images", "networks")  # what an evaluation is the answer to


def earlier(file: Path) -> list[dict[str, Any]]:
    """The evaluations in a file, oldest first. Raises InputError where it holds anything else."""
    if not file.exists():
        return []
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        found = None
    if not isinstance(found, list) or not all(isinstance(each, dict) for each in found):
        raise InputError(f"{file} is damaged, or no list of evaluations; move it away, it would be written over")
    return found


def metrics_file(folder: str) -> Path:
    """Where the result of an evaluation lies: beside the samples."""
    path = Path(folder).expanduser().resolve()
    return path.with_name(f"{path.name}.metrics.json")
