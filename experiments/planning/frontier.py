"""The frontier: error against MACs for every policy and forecaster, and for simply taking fewer steps.

A row is one JSON file for every block of seeds, named after all it depends on; those that are there are not run again,
and table and plot are made of these files alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import cached_property
from glob import glob
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

import configs
from caching import NULL, Plan, PlanFile, SavedPlan, plan_of
from configs import InputError
from experiments.digest import json_digest
from experiments.grid import UNCACHED, Strategy
from experiments.images import save_figure
from experiments.model import model_config, pick_device
from experiments.pipeline import Pipeline, PipelineConfig, load_pipeline
from experiments.planning import frontier_page
from experiments.planning.contenders import Contender, check_seeds, fewer_steps, own_rows, rows_of, setting_name
from experiments.planning.end_error import final_states, mean_psnr, squared_errors
from experiments.planning.tuning import check_uncompiled
from models.files import check_writable, write_safetensors, write_text
from samplers import Sampler, SamplerConfig

STORED = configs.ROOT / "docs" / "frontier"
BLOCK = 128  # images of a file: whoever asks for more of them keeps those that are measured


@dataclass(frozen=True)
class FrontierConfig(PipelineConfig):
    """One run of scripts/frontier.py."""

    model: str = "mnist32"
    checkpoint: str | None = None
    # Folder of calibrated plans, or a pattern of their files: each says which sampler and budget it is for. Those of
    # other models are passed over.
    plans: str = str(STORED / "plans")
    # Ideas of your own, {policy: ..., forecaster: ...} as sampling configurations have them, measured in every setting
    # that the plans are for.
    also: list[Any] = field(default_factory=list)
    num_images: int = 256  # from seed 0 on; stored rows hold 128 images each
    batch_size: int = 32
    solution_steps: int = 1000  # of DDIM, taken for the exact solution
    solution_images: int = 32
    device: str = "auto"
    out: str = str(STORED)  # rows/ of it holds the results; those of docs/frontier are read from there

    def __post_init__(self) -> None:
        super().__post_init__()
        check_uncompiled(self)
        for name in ("num_images", "batch_size", "solution_steps", "solution_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


class Frontier:
    """The rows of one checkpoint, measured or read.

    Raises InputError where there are no plans, or they cannot be evaluated on these seeds, for an entry of `also` that
    fits none of their settings, and where anything but the default is to go to docs/frontier.
    """

    def __init__(self, config: FrontierConfig) -> None:
        _check_out(config)
        self.config, self.model = config, model_config(config.model)
        self.out = Path(config.out)
        self.plans = read_plans(config)
        self.rows = [
            (row, plan.made_for.checkpoint) for plan in self.plans for row in rows_of(plan, self.model.diffusion)
        ]
        self.rows += own_rows(config.also, self.plans, self.model, config.num_images, config)

    @cached_property
    def pipeline(self) -> Pipeline:
        """Loaded when a row has to be run, not before."""
        return load_pipeline(self.config.checkpoint, self.config.model, self.config, pick_device(self.config.device))

    def run(self) -> str:
        """Runs what is missing, then writes tables and picture -> the summary of them."""
        text, picture = self.out / "frontier.md", self.out / "frontier.png"
        for file in (text, picture):
            check_writable(file)
        wanted = {self.path(*row, seeds): (*row, seeds) for seeds in self.blocks for row in self.rows}
        missing = {path: what for path, what in wanted.items() if not path.exists()}
        for path, what in tqdm(missing.items(), unit="row", desc="frontier", disable=not missing):
            write_text(path, json.dumps(self.measure(*what), indent=1) + "\n")
        results = frontier_page.ordered(self.results())
        write_text(text, frontier_page.page(results, Path(self.config.model).stem) + "\n")
        save_figure(frontier_page.picture(results), picture)
        return "\n".join([*frontier_page.summary(results), "", f"All rows are in {text}, the picture is {picture}."])

    def results(self) -> list[dict[str, Any]]:
        """What was measured, one mapping per row, over all blocks."""
        by_files = {tuple(self.path(*row, seeds) for seeds in self.blocks): row[0] for row in self.rows}
        return [
            merged([json.loads(path.read_text()) for path in paths]) | self.consists_of(row)
            for paths, row in by_files.items()
        ]

    def consists_of(self, row: Contender) -> dict[str, Any]:
        """The number of full, partial and null calls of a calibrated plan, as a key of its result."""
        if row.group != "calibrated":
            return {}
        plan = plan_of(row.policy, Sampler(row.sampler, self.model.diffusion).num_evals)
        full, null = plan.count(None), plan.count(NULL)
        return {"calls": (full, len(plan) - full - null, null)}

    @property
    def blocks(self) -> list[range]:
        """The seeds, file by file."""
        count = self.config.num_images
        return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]

    def path(self, row: Contender, checkpoint: str, seeds: range) -> Path:
        """The file of a row's result on some seeds."""
        evals = Sampler(row.sampler, self.model.diffusion).num_evals
        usual = FrontierConfig()
        what = row.identity(evals) | {"checkpoint": checkpoint, "seeds": [seeds.start, seeds.stop]} | self.changed
        if (count := len(self.solved(seeds))) != len(seeds[: max(0, usual.solution_images - seeds.start)]):
            what["solved"] = count
        if count and self.config.solution_steps != usual.solution_steps:
            what["solution_steps"] = self.config.solution_steps
        return self.place("rows", f"{json_digest(what)}.json")

    def place(self, folder: str, name: str) -> Path:
        """A file of OUT; where OUT has it not and docs/frontier has, the one there."""
        stored = STORED / folder / name
        own = self.out / folder / name
        return stored if stored.exists() and not own.exists() else own

    def solved(self, seeds: range) -> range:
        """Those of the seeds that are also compared with the solution."""
        return seeds[: max(0, self.config.solution_images - seeds.start)]

    @cached_property
    def changed(self) -> dict[str, Any]:
        """What of the model and of the network's settings is not as by default, which goes without saying in the names
        of files."""
        usual, ours = (
            {"model": config.model, **model_digests(config.model), **asdict(config.of_images)}
            for config in (FrontierConfig(), self.config)
        )
        return {name: value for name, value in ours.items() if value != usual[name]}

    def measure(self, row: Contender, checkpoint: str, seeds: range) -> dict[str, Any]:
        """Samples the seeds as the row says, and compares: with the solution as many of the first as have one."""
        if checkpoint != self.pipeline.parts.trajectory_sha256:
            raise InputError(f"the plans in {self.config.plans} were made for other weights (sha256 "
                             f"{checkpoint[:12]}); calibrate them for these")  # fmt: skip
        costs = self.pipeline.costs()
        full = Sampler(row.setting, self.model.diffusion).num_evals
        target = self.states(row.setting, seeds)
        x, depths = target, (None,)
        if row.group != "uncached":
            x, depths = self.sample(row.sampler, Strategy(row.name, row.policy, row.forecaster), seeds)
        errors = squared_errors(x, target)
        psnr_solution = None
        if solved := self.solved(seeds):
            most = self.model.diffusion.num_timesteps - row.setting.offset
            steps = min(self.config.solution_steps, most)
            exact = replace(fewer_steps(row.setting, steps)["DDIM"], spacing="leading")
            psnr_solution = mean_psnr(squared_errors(x[: len(solved)], self.states(exact, solved)))
        return {
            "setting": setting_name(row.setting),
            "budget": row.budget,
            "group": row.group,
            "name": row.name,
            "macs": Sampler(row.sampler, self.model.diffusion).num_evals / full / costs.speedup(depths),
            "mse": float(np.mean(errors)),
            "psnr": mean_psnr(errors),
            "psnr_solution": psnr_solution,
            "seeds": [seeds.start, seeds.stop],
            "solved": len(solved),
            "checkpoint": checkpoint,
            "torch": torch.__version__,
        }

    def states(self, sampler: SamplerConfig, seeds: range) -> Tensor:
        """Uncached final states, sampled once and kept in OUT/states."""
        what: list[Any] = [asdict(sampler), [seeds.start, seeds.stop], self.pipeline.parts.trajectory_sha256]
        what += [self.changed] if self.changed else []
        path = self.place("states", f"{json_digest(what)}.safetensors")
        if not path.exists():
            write_safetensors(path, {"x": self.sample(sampler, UNCACHED, seeds)[0]}, {})
        return load_file(path)["x"]

    def sample(self, config: SamplerConfig, strategy: Strategy, seeds: range) -> tuple[Tensor, Plan]:
        sampler = Sampler(config, self.model.diffusion)
        total = len(seeds) * len(sampler.table)
        with tqdm(total=total, unit="image step", unit_scale=True, desc=strategy.name, leave=False) as bar:
            return final_states(self.pipeline, sampler, strategy, seeds, self.config.batch_size, bar)


def model_digests(name: str) -> dict[str, str]:
    """What a model's file says of network and noise schedule: a file may be edited, and keep its name."""
    model = model_config(name)
    return {key: json_digest(asdict(getattr(model, key))) for key in ("network", "diffusion")}


def _check_out(config: FrontierConfig) -> None:
    """Raises InputError for what would put another table and picture in the place of those in docs/frontier."""
    usual = FrontierConfig()
    in_full = replace(config, plans=str(Path(config.plans).resolve()), out=str(Path(config.out).resolve()))
    differing = (each.name for each in fields(usual) if getattr(in_full, each.name) != getattr(usual, each.name))
    changed = [name for name in differing if name != "device"]
    if changed and "out" not in changed:
        raise InputError(f"{usual.out} holds the frontier of all plans there; with another {changed[0]} give "
                         "out=FOLDER, e.g. out=outputs/frontier")  # fmt: skip


def read_plans(config: FrontierConfig) -> list[SavedPlan]:
    """The calibrated plans for the model.

    Raises InputError where there is none, for a file that does not say how it was found, and for a plan that was
    calibrated on seeds it would be evaluated on, or for other guidance, size or noise schedule.
    """
    model, schedule = Path(config.model).stem, model_config(config.model).diffusion
    plans, others = [], set()
    files = glob(f"{config.plans}/*" if Path(config.plans).is_dir() else config.plans)
    for path in sorted(path for path in files if path.endswith(".json")):  # what was measured lies beside them
        file = PlanFile(path)
        plan, made_for = file.saved, file.saved.made_for
        if lacking := {"model", "budget", "compared", "uniform"} - plan.record.keys():
            raise InputError(f"{path} does not say how it was found (its record lacks {min(lacking)}); here go files "
                             "that scripts/calibrate.py wrote, others into also=[{policy: FILE.json}]")  # fmt: skip
        if plan.record["model"] != model:
            others.add(plan.record["model"])
            continue
        check_seeds(plan, path, config.num_images)
        sampler = Sampler(SamplerConfig(**made_for.sampler), schedule)
        file.check(config.trajectories(made_for.checkpoint, sampler))
        plans.append(plan)
    if not plans:
        hint = f"give model={min(others)} for those that are" if others else "scripts/calibrate.py writes them"
        raise InputError(f"there are no plans for {model} in {config.plans}; {hint}")
    return plans


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One result from those of its blocks: means over all images that have the figure."""
    whole = dict(parts[0]) | {"seeds": [parts[0]["seeds"][0], parts[-1]["seeds"][1]]}
    for figure in ("macs", "mse", "psnr", "psnr_solution"):
        known = [part for part in parts if part[figure] is not None]
        weights = [part.get("solved", _size(part)) if figure == "psnr_solution" else _size(part) for part in known]
        whole[figure] = np.average([part[figure] for part in known], weights=weights) if known else None
    return whole


def _size(part: Mapping[str, Any]) -> int:
    start, stop = part["seeds"]
    return stop - start
