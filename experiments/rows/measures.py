"""What is measured of a row, as people read it: names, units, digits, and which way is better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from experiments.rows.results import Result


@dataclass(frozen=True)
class Measure:
    """One figure of a result."""

    label: str  # on axes, with the unit
    short: str  # above a table's column
    form: str  # of the number, in the unit of the label
    scale: float = 1.0  # from the unit it is stored in to that of the label
    lower_is_better: bool = False
    unit: str = ""  # behind the number, in tables

    def text(self, value: float | None) -> str:
        """ "" for None."""
        return "" if value is None else format(value * self.scale, self.form) + self.unit


MEASURES = {
    "macs": Measure("MACs per network call (G)", "G MACs", ".4g", 1e-9, lower_is_better=True),
    "macs_per_image": Measure("MACs per image (G)", "G MACs per image", ".4g", 1e-9, lower_is_better=True),
    "theoretical_speedup": Measure("speed-up in MACs", "theory", ".2f", unit="x"),
    "seconds_per_image": Measure("time per image (ms)", "ms per image", ".3g", 1e3, lower_is_better=True),
    "measured_speedup": Measure("measured speed-up", "measured", ".2f", unit="x"),
    "psnr_mean": Measure("PSNR to the uncached images (dB, mean)", "PSNR mean", ".1f"),
    "psnr_worst": Measure("PSNR to the uncached images (dB, worst)", "PSNR worst", ".1f"),
    "ssim_mean": Measure("SSIM to the uncached images (mean)", "SSIM mean", ".4f"),
    "ssim_worst": Measure("SSIM to the uncached images (worst)", "SSIM worst", ".4f"),
    "frechet": Measure("Fréchet distance to real images", "Fréchet", ".4g", lower_is_better=True),
    "fid": Measure("FID", "FID", ".2f", lower_is_better=True),
    "sfid": Measure("sFID", "sFID", ".2f", lower_is_better=True),
    "inception_score": Measure("Inception Score", "IS", ".2f"),
    "precision": Measure("precision", "precision", ".3f"),
    "recall": Measure("recall", "recall", ".3f"),
    "clip_score": Measure("CLIP score", "CLIP", ".2f"),
}


def measured(result: Result, uncached: Result | None) -> dict[str, float]:
    """Every figure of a result, with those that follow from it and from its uncached row.

    macs_per_image counts both calls of guided sampling. seconds_per_image and measured_speedup follow from
    images_per_second: of one process, decoding included, the median batch.
    """
    values = dict(result.metrics)
    if "macs" in values:
        guided = 2 if result.config["guidance"]["scale"] != 1 else 1
        values["macs_per_image"] = values["macs"] * sum(result.calls.values()) * guided
    speed = values.get("images_per_second")
    if speed:
        values["seconds_per_image"] = 1 / speed
        if uncached and "images_per_second" in uncached.metrics:
            values["measured_speedup"] = speed / uncached.metrics["images_per_second"]
    return values


def present(rows: Sequence[dict[str, float]]) -> list[str]:
    """The measures that at least one row has, in the order of MEASURES."""
    return [name for name in MEASURES if any(name in row for row in rows)]
