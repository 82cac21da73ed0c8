"""The paper's tables under other settings: fewer images, other weights, another number of steps, another model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import configs
from configs import InputError
from experiments.model import model_config
from experiments.paper.paper_tables import Entry, PaperTable, Section
from experiments.rows.pricing import price

# Keys of scripts/sample.py that replace the table's wherever they are given.
PASSED_ON = ("checkpoint", "num_images", "batch_size", "seed", "precision", "prompts", "device")
PROMPT = "a photograph of an astronaut riding a horse"  # of random weights, which make no picture of it anyway


@dataclass(frozen=True)
class Transferred:
    """A table as it will be run."""

    table: PaperTable
    changed: str = ""  # what the paper's figures are not of: "mnist32, 50 steps"; "" where they can be compared with
    notes: tuple[str, ...] = ()  # what was left out, and why


def transfer(table: PaperTable, changes: Mapping[str, Any]) -> Transferred:
    """The table with `changes`: `model`, `steps`, and the keys of PASSED_ON; None leaves a setting as it is.

    On another model the steps, policies and forecasters are the table's, the rest of the sampler and the guidance are
    those the model is used with (configs/MODEL.yaml). Another number of steps also scales what is counted in steps:
    centres, horizons, and the steps of rows that have fewer. Rows that then make no sense are left out, as are sections
    that become equal to another, and on another model the figures of other methods.

    Raises InputError for a change that no run can have, and where no section is left.
    """
    notes: list[str] = []
    sections: list[Section] = []
    changed: dict[str, None] = {}
    for section in table.sections:
        moved = _section(section, changes, notes)
        if moved.base["model"] != section.base["model"]:
            changed[moved.base["model"]] = None
        if _steps(moved) != _steps(section):
            changed[f"{_steps(moved)} steps"] = None
        equal = next((other.name for other in sections if _runs(other) == _runs(moved)), None)
        if equal and changed:
            notes.append(f"Section {section.name} is left out: here it is the same as {equal}.")
        elif not moved.rows:
            notes.append(f"Section {section.name} is left out: none of its rows can be run here.")
        else:
            sections.append(moved)
    if not sections:
        reason = next((note for note in notes if " is left out: " in note), "it has no sections.")
        raise InputError(f"nothing of {table.title!r} can be run; the first: {reason.removesuffix('.')}")
    return Transferred(replace(table, sections=sections), ", ".join(changed), tuple(dict.fromkeys(notes)))


def _section(section: Section, changes: Mapping[str, Any], notes: list[str]) -> Section:
    model = changes.get("model") or section.base["model"]
    foreign = model != section.base["model"]
    base = _foreign_base(section.base, model) if foreign else dict(section.base)
    base |= {key: changes[key] for key in PASSED_ON if changes.get(key) is not None}
    if base.get("checkpoint") == "random" and _takes_text(model) and not base.get("prompts"):
        base["prompt"] = PROMPT
    before = section.base["sampler"]["steps"]
    steps = changes.get("steps") or before
    base["sampler"] = {**base["sampler"], "steps": steps}
    moved = replace(section, base=base, name=f"{model} in place of {section.name}" if foreign else section.name)
    moved.uncached  # noqa: B018  # refuses what is wrong with the changes themselves, which is no row's fault
    if not foreign and steps == before:
        return moved
    if steps != before:
        notes.append(f"Run with {steps} steps instead of {before}: centres and fewer steps are scaled alike, intervals "
                     "are not.")  # fmt: skip
    rows = [_entry(entry, moved, steps / before, notes) for entry in section.rows if not (foreign and entry.quoted)]
    quoted = [entry.name for entry in section.rows if foreign and entry.quoted]
    if quoted:
        notes.append(f"Figures of other work are left out on another model: {', '.join(quoted)}.")
    return replace(moved, rows=[entry for entry in rows if entry.quoted or entry.changes])


def _foreign_base(base: Mapping[str, Any], model: str) -> dict[str, Any]:
    """What another model's rows have in common: its own way of sampling, with the table's solver, steps and number of
    images; batches and seeds are those of scripts/sample.py."""
    own = _own_settings(model)
    kept = {key: base[key] for key in ("forecaster", "num_images")}
    solver = {"name": base["sampler"]["name"]}
    return {"model": model, **own, **kept, "sampler": {**own.get("sampler", {}), **solver}}


def _own_settings(model: str) -> dict[str, Any]:
    """How configs/*.yaml sample a model: checkpoint, sampler and guidance of the first file about it."""
    model_config(model)  # refuses one that does not exist
    for path in sorted(configs.FOLDER.glob("*.yaml")):
        content = configs.read(path)
        if content.get("model") == model:
            return {key: content[key] for key in ("checkpoint", "sampler", "guidance") if key in content}
    return {}


def _entry(entry: Entry, section: Section, scale: float, notes: list[str]) -> Entry:
    """The row with what it counts in steps scaled, and without the runs that cannot be priced."""
    changes = {name: _scaled(change, section, scale) for name, change in entry.changes.items()}
    possible = {}
    for name, change in changes.items():
        try:
            price(section.config(change))
        except InputError as error:
            notes.append(f"{entry.name}{f' ({name})' if name else ''} is left out: {error}.")
        else:
            possible[name] = change
    if entry.run is not None:
        return replace(entry, run=possible.get(""))
    return replace(entry, runs=possible)


def _scaled(change: Mapping[str, Any], section: Section, scale: float) -> dict[str, Any]:
    scaled = {key: dict(value) for key, value in change.items()}
    if "steps" in scaled.get("sampler", {}):
        scaled["sampler"]["steps"] = max(1, round(scaled["sampler"]["steps"] * scale))
    policy = scaled.get("policy", {})
    if "center" in policy:
        policy["center"] = round(policy["center"] * scale)
    if isinstance(policy.get("horizon"), int):
        policy["horizon"] = round(policy["horizon"] * scale)
    return scaled


def _steps(section: Section) -> int:
    return section.base["sampler"]["steps"]


def _runs(section: Section) -> list[Any]:
    """What a section runs, whatever its rows are called."""
    return [section.config(change) for entry in section.rows for change in entry.changes.values()]


def _takes_text(model: str) -> bool:
    conditioning = model_config(model).conditioning
    return conditioning is not None and conditioning.text is not None
