"""The result of an evaluation: as a table for people, as JSON for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

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
    against: str | None
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
        text = json.dumps(asdict(self), indent=2) + "\n"
        write_text(self.file, text)

    def __str__(self) -> str:
        present = {key for values in self.values.values() for key in values}
        distances = [_Column(key, (key,), ".4g") for key in sorted(present) if key.startswith("FD-")]
        columns = [column for column in (*COLUMNS, *distances) if present & set(column.keys)]
        rows = [["samples", "images", *(column.heading for column in columns)]]
        for name, values in self.values.items():
            rows.append([name, str(self.images[name]), *(column.cell(values) for column in columns)])
        return "\n".join([*markdown(rows), "", *self.settings, *self.missing])


def metrics_file(folder: str) -> Path:
    """Where the result of an evaluation lies: beside the samples."""
    path = Path(folder).expanduser().resolve()
    return path.with_name(f"{path.name}.metrics.json")
