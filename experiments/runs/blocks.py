"""The output folder of a sampling run, block by block, so that a run can end anywhere and go on.

A block is batch_size consecutive seeds on an absolute grid: block k covers seeds kB, …, (k + 1)B - 1, whatever range is
asked for, and is always computed whole. (The last of all ends where seeds do.) So an image has the same place in the
same batch in every run, and is the same bit for bit whatever the range, the order, the number of processes and the
interruptions, on one kind of machine with as many threads.

    run.json             what the images depend on
    STRATEGY/            the images: PNGs or shards, see experiments/runs/samples.py
    blocks/000000.json   the record of a block, named after its first seed and written last: times, traces, distances
                         and the sha256 of every file
    grid.png, summary.json

A block is whole if its record is there and every file is what the record says. Anything else is made again.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor
from tqdm import tqdm

from caching import Plan
from configs import InputError
from experiments.digest import json_digest
from experiments.grid import folder_name
from experiments.runs.samples import Batch, storage
from models.files import remove_unfinished, write_bytes
from samplers import NUM_SEEDS, GuidancePlan

BLOCKS = "blocks"  # the folder of the records
MANIFEST = "run.json"


@dataclass(frozen=True)
class Part:
    """What one strategy made of a block: of its images that are stored, one entry each."""

    seconds: float  # in the sampling loop, of the whole block, device synchronised
    decoding: float  # seconds from final states to images on the CPU
    traces: list[Plan]  # one per image, or a single one that all share
    uncond_traces: list[Plan]
    guidance: GuidancePlan
    psnr: list[float]  # dB, to the uncached images; empty where there is nothing to compare with
    ssim: list[float]
    files: dict[str, str]  # sha256 by name
    store_bytes: int = 0  # that the cached features of the block take

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Part:
        plans = {key: [tuple(plan) for plan in content[key]] for key in ("traces", "uncond_traces")}
        psnr = [math.inf if value is None else value for value in content["psnr"]]
        return cls(**{**content, **plans, "guidance": tuple(content["guidance"]), "psnr": psnr})

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "psnr": [value if math.isfinite(value) else None for value in self.psnr]}


@dataclass(frozen=True)
class Record:
    """What became of a block."""

    seeds: list[int]  # whose images are stored, ascending
    labels: list[int] | None  # their classes, of class-conditional models
    environment: dict[str, Any]
    parts: dict[str, Part]  # by strategy

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Record:
        """Raises ValueError, KeyError or TypeError for anything but what `to_json` made."""
        content = dict(content)
        if content.pop("sha256") != json_digest(content):
            raise ValueError("it is not what was written")
        return cls(**{**content, "parts": {name: Part.from_json(part) for name, part in content["parts"].items()}})

    def to_json(self) -> dict[str, Any]:
        content = {**asdict(self), "parts": {name: part.to_json() for name, part in self.parts.items()}}
        return {**content, "sha256": json_digest(content)}


class Task(NamedTuple):
    """A block that is to be made."""

    block: range  # seeds it covers, all of which are computed
    seeds: list[int]  # those that are stored


@dataclass(frozen=True)
class RunFolder:
    """The output folder of the runs with one identity."""

    path: Path
    identity: dict[str, Any]  # every setting that images depend on; flat
    strategies: list[str]  # names
    batch_size: int
    storage: str

    def claim(self) -> None:
        """Marks the folder as this identity's. Raises InputError, naming the difference, where it is another's: images
        of two configurations must never be mixed."""
        manifest = self.path / MANIFEST
        if manifest.exists():
            self._compare(_read_manifest(manifest))
            remove_unfinished(self.path)
        elif self.path.exists() and (not self.path.is_dir() or any(map(_is_visible, self.path.iterdir()))):
            raise InputError(f"{self.path} exists and is not the folder of an earlier run; choose another out=FOLDER")
        else:
            _write_json(manifest, {"identity": self.identity})

    def begun_batch_size(self) -> int | None:
        """That the folder was begun with, if it was. Raises InputError for a damaged manifest."""
        manifest = self.path / MANIFEST
        return _read_manifest(manifest).get("batch_size") if manifest.exists() else None

    def sized(self, batch_size: int) -> RunFolder:
        """The same folder, for blocks of this size."""
        return replace(self, batch_size=batch_size, identity={**self.identity, "batch_size": batch_size})

    def _compare(self, theirs: Mapping[str, Any]) -> None:
        ours = json.loads(json.dumps(self.identity))
        changed = [key for key in {**ours, **theirs} if ours.get(key) != theirs.get(key)]
        if changed:
            difference = "; ".join(f"{key} {theirs.get(key)} there, {ours.get(key)} here" for key in changed)
            edited = " (your own policies or forecasters were edited since)" if changed == ["code"] else ""
            raise InputError(f"{self.path} holds another run ({difference}){edited}; choose another out=FOLDER or "
                             "remove it")  # fmt: skip

    def blocks(self, seeds: range) -> list[range]:
        """The blocks that cover the seeds."""
        size = self.batch_size
        starts = range(seeds[0] // size * size, seeds[-1] + 1, size)
        return [range(start, min(start + size, NUM_SEEDS)) for start in starts]

    def examine(self, seeds: range) -> tuple[list[Task], list[str]]:
        """Reads everything that the seeds' blocks have left here -> what is to be made, and a sentence about each block
        that was begun or damaged."""
        tasks, sentences = [], [f"{path} is not of this run, and is left alone" for path in self._strangers()]
        for block in tqdm(self.blocks(seeds), desc="checking what is there", unit="block", delay=1, leave=False):
            record, sentence = self._examine(block)
            asked = {seed for seed in block if seed in seeds}
            if sentence or record is None or not asked <= set(record.seeds):
                stored = set(record.seeds) if record else set()
                tasks.append(Task(block, sorted(asked | stored | self._present(block))))
            if sentence:
                sentences.append(f"seeds {block[0]} to {block[-1]} are made again: {sentence}")
        return tasks, sentences

    def record(self, block: range) -> Record:
        """Raises OSError or ValueError, KeyError, TypeError where it is missing or damaged."""
        return Record.from_json(json.loads(self._record_path(block).read_text(encoding="utf-8")))

    def records(self, seeds: range) -> Iterator[tuple[range, Record]]:
        return ((block, self.record(block)) for block in self.blocks(seeds))

    def store(self, name: str, block: range, batch: Batch) -> dict[str, str]:
        """Writes images of one strategy, each file atomically -> sha256 by file name."""
        files = storage(self.storage).encode(block, batch)
        for file, content in files.items():
            write_bytes(self.folder(name) / file, content)
        return {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}

    def finish(self, block: range, record: Record) -> None:
        """Writes the record, after all files of its block."""
        _write_json(self._record_path(block), record.to_json())

    def read(self, name: str, block: range, seeds: Sequence[int]) -> Tensor:
        """Stored images (B, C, H, W) uint8 of one strategy."""
        return storage(self.storage).read(self.folder(name), block, seeds)

    def folder(self, name: str) -> Path:
        return self.path / folder_name(name)

    def _record_path(self, block: range) -> Path:
        return self.path / BLOCKS / f"{block[0]:06d}.json"

    def _examine(self, block: range) -> tuple[Record | None, str]:
        """The record, if it can be read, and what is wrong with the block, if anything."""
        try:
            record = self.record(block)
            return record, next(self._damage(record), "")
        except FileNotFoundError:
            return None, "they were begun and not finished" if self._present(block) else ""
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            return None, f"{self._record_path(block)} is damaged ({error})"

    def _damage(self, record: Record) -> Iterator[str]:
        for name in self.strategies:
            for file, digest in record.parts[name].files.items():
                path = self.folder(name) / file
                if not path.is_file():
                    yield f"{path} is missing"
                elif hashlib.sha256(path.read_bytes()).hexdigest() != digest:
                    yield f"{path} is not what was written"

    def _strangers(self) -> list[Path]:
        """Files among the images that no run of this kind leaves there."""
        inside = [
            path for name in self.strategies if self.folder(name).is_dir() for path in self.folder(name).iterdir()
        ]
        return sorted(p for p in inside if _is_visible(p) and not re.fullmatch(storage(self.storage).pattern, p.name))

    def _present(self, block: range) -> set[int]:
        """Seeds of the block that have an image here, whether it is recorded or not."""
        kind = storage(self.storage)
        return set().union(*(kind.present(self.folder(name), block) for name in self.strategies))


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))["identity"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is damaged ({error}), so that nobody knows what the images beside it are; choose "
                         "another out=FOLDER or remove this one") from error  # fmt: skip


def _is_visible(path: Path) -> bool:
    return not path.name.startswith(".")  # what a killed run left half-written


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    write_bytes(path, (json.dumps(content) + "\n").encode())
