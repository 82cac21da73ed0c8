"""Results of rows: one JSON file each."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import configs
from configs import InputError


@dataclass(frozen=True)
class Result:
    """What became of a row: the contents of its file.

    metrics: macs and macs_attention (per network call and image; as the paper counts, and layers with attention
      products), theoretical_speedup, seconds (of the sampling loop, all images), images_per_second (of one process,
      decoding included, the median batch); of images that mean something also psnr_mean, psnr_worst (dB), ssim_mean,
      ssim_worst to the uncached row, and fid, sfid, inception_score, precision, recall, clip_score, or frechet (in the
      features of another network, which `settings` name). What could not be had is absent; `notes` say why.
    """

    name: str
    key: str
    config: dict[str, Any]
    error: str | None = None  # the sentence the row failed with; everything below is then empty
    uncached: str = ""  # key of the row that this one is compared with; "" for an uncached one
    checkpoint: dict[str, str] = field(default_factory=dict)
    random_weights: bool = False
    seeds: list[int] = field(default_factory=list)  # the first and the last
    calls: dict[str, float] = field(default_factory=dict)  # full, partial, null: per image, averaged
    plan: list[int | None] | None = None  # the depth of every call, where all images share it
    environment: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    judged: dict[str, str] = field(default_factory=dict)  # what the images were measured against, see Judges.identity
    settings: list[str] = field(default_factory=list)  # how metrics are defined here
    notes: list[str] = field(default_factory=list)  # why metrics are missing


def as_text(result: Result) -> str:
    """A result's file: JSON with one line per field."""
    lines = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in asdict(result).items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def load_result(path: Path) -> Result:
    """Raises InputError for a file that is damaged or holds no result."""
    try:
        content = dict(json.loads(path.read_text(encoding="utf-8")))
        configs.check_keys(content, [each.name for each in fields(Result)], "a result")
        return Result(**content)  # configs.parse would take a node for every entry of a plan: 20 ms
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}); remove it, and the row is run again") from error


def merged(records: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """What all of these records say; where they differ, every value."""
    found: dict[str, dict[str, None]] = {}
    for record in records:
        for name, value in record.items():
            found.setdefault(name, {})[str(value)] = None
    return {name: ", ".join(values) for name, values in found.items()}
