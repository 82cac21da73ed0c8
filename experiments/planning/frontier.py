"""The frontier: error against MACs for every policy and forecaster, and for simply taking fewer steps.

A row is one JSON file for every block of seeds, named after all it depends on; those that are there are not run again,
and table and plot are made of these files alone.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from tqdm import tqdm

from caching import (
    NULL,
    AdaptivePolicy,
    Explicit,
    Forecaster,
    Lagrange,
    NoCache,
    Plan,
    Policy,
    Reuse,
    SavedPlan,
    Taylor,
    Uniform,
    load_plan,
    make_forecaster,
    make_policy,
    pass_costs,
)
from configs import InputError
from experiments.digest import json_digest
from experiments.grid import UNCACHED, Strategy, label
from experiments.images import save_figure
from experiments.model import model_config, pick_device
from experiments.pipeline import Pipeline, PipelineConfig, load_pipeline
from experiments.planning import pictures
from experiments.planning.end_error import describe_forecaster, final_states, mean_psnr, squared_errors
from experiments.reports.tables import markdown
from experiments.runs.run import default_checkpoint
from models.files import write_safetensors, write_text
from samplers import Sampler, SamplerConfig

BLOCK = 128  # images of a file: whoever asks for more of them keeps those that are measured


@dataclass(frozen=True)
class FrontierConfig(PipelineConfig):
    """One run of scripts/frontier.py."""

    model: str = "mnist32"
    checkpoint: str | None = None
    plans: str = "docs/frontier/plans"  # folder of calibrated plans: each says which sampler and budget it is for
    num_images: int = 256  # from seed 0 on
    batch_size: int = 32
    solution_steps: int = 1000  # of DDIM, taken for the exact solution
    solution_images: int = 32
    device: str = "auto"
    out: str = "docs/frontier"  # rows/ of it holds the results

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_images", "batch_size", "solution_steps", "solution_images"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


@dataclass(frozen=True)
class Row:
    """One way to sample, for one budget of one setting."""

    setting: SamplerConfig  # whose uncached images are the target
    budget: float  # MACs that are allowed, as a fraction of the setting's uncached ones; 1 for those themselves
    group: str  # what the row is about: one of GROUPS, or "uncached"
    name: str
    sampler: SamplerConfig
    policy: Policy | AdaptivePolicy
    forecaster: Forecaster

    def identity(self, num_evals: int) -> dict[str, Any]:
        """All that the row's figures depend on, besides checkpoint and images."""
        what = asdict(self) | {"forecaster": describe_forecaster(self.forecaster)}
        policy = what.pop("policy")
        if isinstance(self.policy, AdaptivePolicy):
            return what | {"policy": {"name": type(self.policy).__name__.lower(), **policy}}
        return what | {"plan": self.policy.plan(num_evals)}


def rows_of(saved: SavedPlan, diffusion: Any) -> Iterator[Row]:
    """A calibrated plan, and everything that it must be better than at its cost."""
    setting, budget = SamplerConfig(**saved.sampler), saved.record["budget"]
    full = Sampler(setting, diffusion).num_evals

    def row(
        group: str,
        name: str,
        policy: Policy | AdaptivePolicy,
        forecaster: Forecaster,
        sampler: SamplerConfig = setting,
    ) -> Row:
        return Row(setting, budget, group, name, sampler, policy, forecaster)

    yield row("uncached", "uncached", NoCache(), Reuse())
    calls = int(budget * full + 1e-6)
    for name, sampler in fewer_steps(setting, calls).items():
        yield row("fewer steps", f"{sampler.steps} steps of {name}", NoCache(), Reuse(), sampler)
    for compared in saved.record["compared"]:
        policy, forecaster = Explicit(entries=compared["entries"]), make_forecaster(compared["forecaster"])
        group = "reuse" if isinstance(forecaster, Reuse) else "forecasts"
        yield row(group, f"{compared['name']}, {words(forecaster)}", policy, forecaster)
    for tuned in saved.record.get("adaptive", []):
        policy, forecaster = make_policy(tuned["policy"]), make_forecaster(tuned["forecaster"])
        limit = {key: f"{value:.3g}" for key, value in tuned["policy"].items() if key in ("threshold", "bound")}
        name = label({"name": tuned["policy"]["name"], **limit, "branch": policy.branch})
        yield row("adaptive", f"{name}, {words(forecaster)}", policy, forecaster)
    interval, branch = saved.record["uniform"]
    uniform = Uniform(interval, branch)
    for forecaster in (Lagrange(1), Lagrange(3), Taylor(2), Lagrange(2, "log_snr")):
        yield row("forecasts", f"uniform interval={interval} branch={branch}, {words(forecaster)}", uniform, forecaster)
    null = Explicit(full=sorted({round(full * i / calls) for i in range(calls)}), branch=NULL)
    yield row("null steps", f"null steps between {calls} calls, {words(Lagrange())}", null, Lagrange())
    forecaster = make_forecaster(saved.forecaster)
    yield row("calibrated", f"calibrated, {words(forecaster)}", Explicit(entries=saved.entries), forecaster)


def fewer_steps(setting: SamplerConfig, calls: int) -> dict[str, SamplerConfig]:
    """Solvers with so many network calls."""
    spacing = "leading" if setting.spacing == "uniform" else setting.spacing  # of exactly so many steps
    ddim = replace(setting, spacing=spacing, steps=calls)
    # DDIM does best nearest to the setting's own timesteps, the others where both ends are visited.
    other = "fractional" if spacing == "leading" else spacing
    return {
        "DDIM": ddim,
        "DPM-Solver++ 2M": replace(ddim, name="dpmpp_2m", spacing=other),
        "PLMS": replace(ddim, name="plms", steps=calls - 1, spacing=other),
    }


class Frontier:
    """The rows of one checkpoint, measured or read."""

    def __init__(self, config: FrontierConfig) -> None:
        self.config, self.model = config, model_config(config.model)
        self.out = Path(config.out)
        self.plans = [load_plan(path) for path in sorted(Path(config.plans).glob("*.json"))]
        if not self.plans:
            raise InputError(f"there are no plans in {config.plans}; scripts/calibrate.py plan=FILE writes them")
        for plan in self.plans:
            start, stop = plan.record["seeds"]["calibration"]
            if start < config.num_images:
                raise InputError(f"a plan was calibrated on seeds {start} to {stop - 1}, which are evaluated here")

    @cached_property
    def pipeline(self) -> Pipeline:
        """Loaded when a row has to be run, not before."""
        checkpoint = self.config.checkpoint or default_checkpoint(self.model, self.config.model)
        return load_pipeline(checkpoint, self.config.model, self.config, pick_device(self.config.device))

    def run(self) -> str:
        """Runs what is missing, then renders table and plot -> the table."""
        rows = [(row, plan.checkpoint) for plan in self.plans for row in rows_of(plan, self.model.diffusion)]
        for seeds, (row, checkpoint) in tqdm(list(itertools.product(self.blocks, rows)), unit="row", desc="frontier"):
            path = self.path(row, checkpoint, seeds)
            if not path.exists():
                write_text(path, json.dumps(self.measure(row, checkpoint, seeds), indent=1) + "\n")
        files = dict.fromkeys(tuple(self.path(*row, seeds) for seeds in self.blocks) for row in rows)
        results = [merged([json.loads(path.read_text()) for path in paths]) for paths in files]
        results.sort(key=_order)
        text = table(results)
        write_text(self.out / "frontier.md", text + "\n")
        save_figure(pictures.frontier(results), self.out / "frontier.png")
        return text

    @property
    def blocks(self) -> list[range]:
        """The seeds, file by file."""
        count = self.config.num_images
        return [range(start, min(start + BLOCK, count)) for start in range(0, count, BLOCK)]

    def path(self, row: Row, checkpoint: str, seeds: range) -> Path:
        """The file of a row's result on some seeds."""
        evals = Sampler(row.sampler, self.model.diffusion).num_evals
        usual = FrontierConfig()
        what = row.identity(evals) | {"checkpoint": checkpoint, "seeds": [seeds.start, seeds.stop]} | self.changed
        if (count := len(self.solved(seeds))) != len(seeds[: max(0, usual.solution_images - seeds.start)]):
            what["solved"] = count
        if count and self.config.solution_steps != usual.solution_steps:
            what["solution_steps"] = self.config.solution_steps
        return self.out / "rows" / f"{json_digest(what)}.json"

    def solved(self, seeds: range) -> range:
        """Those of the seeds that are also compared with the solution."""
        return seeds[: max(0, self.config.solution_images - seeds.start)]

    @cached_property
    def changed(self) -> dict[str, Any]:
        """The settings of the network that are not the defaults, which go without saying in the names of files."""
        names = ["model", *(each.name for each in fields(PipelineConfig))]
        usual, ours = asdict(FrontierConfig()), asdict(self.config)
        return {name: ours[name] for name in names if ours[name] != usual[name]}

    def measure(self, row: Row, checkpoint: str, seeds: range) -> dict[str, Any]:
        """Samples the seeds as the row says, and compares: with the solution as many of the first as have one."""
        if checkpoint != self.pipeline.unet.provenance.sha256:
            raise InputError(f"the plans in {self.config.plans} were made for other weights (sha256 "
                             f"{checkpoint[:12]}); calibrate them for these")  # fmt: skip
        costs = pass_costs(self.pipeline.unet.config, self.pipeline.shape[1:], self.pipeline.context_length)
        full = Sampler(row.setting, self.model.diffusion).num_evals
        target = self.states(row.setting, seeds)
        x, depths = target, (None,)
        if row.group != "uncached":
            x, depths = self.sample(row.sampler, Strategy(row.name, row.policy, row.forecaster), seeds)
        errors = squared_errors(x, target)
        psnr_solution = None
        if solved := self.solved(seeds):
            exact = self.states(replace(row.setting, spacing="leading", steps=self.config.solution_steps), solved)
            psnr_solution = mean_psnr(squared_errors(x[: len(solved)], exact))
        return {
            "setting": f"{row.setting.name} {row.setting.steps} {row.setting.spacing}",
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
        what: list[Any] = [asdict(sampler), [seeds.start, seeds.stop], self.pipeline.unet.provenance.sha256]
        what += [self.changed] if self.changed else []
        path = self.out / "states" / f"{json_digest(what)}.safetensors"
        if not path.exists():
            write_safetensors(path, {"x": self.sample(sampler, UNCACHED, seeds)[0]}, {})
        return load_file(path)["x"]

    def sample(self, config: SamplerConfig, strategy: Strategy, seeds: range) -> tuple[Tensor, Plan]:
        sampler = Sampler(config, self.model.diffusion)
        total = len(seeds) * len(sampler.table)
        with tqdm(total=total, unit="image step", unit_scale=True, desc=strategy.name, leave=False) as bar:
            return final_states(self.pipeline, sampler, strategy, seeds, self.config.batch_size, bar)


def merged(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One result from those of its blocks: means over all images that have the figure."""
    whole = dict(parts[0]) | {"seeds": [parts[0]["seeds"][0], parts[-1]["seeds"][1]]}
    for figure in ("macs", "mse", "psnr", "psnr_solution"):
        known = [part for part in parts if part[figure] is not None]
        weights = [part.get("solved", _size(part)) if figure == "psnr_solution" else _size(part) for part in known]
        whole[figure] = np.average([part[figure] for part in known], weights=weights) if known else None
    return whole


def words(forecaster: Forecaster) -> str:
    """A forecaster in a table."""
    settings = describe_forecaster(forecaster)
    order = f" {settings['order']}" if "order" in settings else ""
    return settings["name"] + order + (" in log-SNR" if settings.get("clock") == "log_snr" else "")


def table(results: list[Mapping[str, Any]]) -> str:
    """The best of every group at each setting and budget; then all rows, one table for each of these."""
    by_cell: dict[tuple[str, float], list[Mapping[str, Any]]] = {}
    for result in results:
        by_cell.setdefault((result["setting"], result["budget"]), []).append(result)
    overview = [["setting", "MACs", *GROUPS, "gain"]]
    lines = []
    for (setting, budget), rows in by_cell.items():
        psnrs = {group: [row["psnr"] for row in rows if row["group"] == group] for group in GROUPS}
        best = {group: max(values) for group, values in psnrs.items() if values}
        gain = best["calibrated"] - max(best["fewer steps"], best["reuse"])
        cells = [f"{best[group]:.1f}" if group in best else "" for group in GROUPS]
        overview.append([setting, f"{budget:.1%}", *cells, f"{gain:+.1f}"])
        lines += ["", f"### {setting} steps, at most {budget:.1%} of the MACs", ""]
        cells_of = [[row["name"], f"{row['macs']:.1%}", *_error(row), f"{row['psnr_solution']:.2f}"] for row in rows]
        lines += markdown([["", "MACs", "MSE", "PSNR", "PSNR to the solution"], *cells_of])
    legend = (
        "PSNR (dB, mean over images) to the uncached images, the best row of each group; gain: of the calibrated plan "
    )
    return "\n".join([*markdown(overview), "", legend + "over the best of fewer steps and reuse.", *lines])


GROUPS = ("fewer steps", "reuse", "forecasts", "adaptive", "null steps", "calibrated")


def _order(result: Mapping[str, Any]) -> tuple[Any, ...]:
    """Of tables and panels: many steps before few, large budgets before small, the best rows first."""
    _, steps, spacing = result["setting"].split()
    return spacing, -int(steps), -result["budget"], -result["psnr"]


def _size(part: Mapping[str, Any]) -> int:
    start, stop = part["seeds"]
    return stop - start


def _error(row: Mapping[str, Any]) -> list[str]:
    return ["0", ""] if row["group"] == "uncached" else [f"{row['mse']:.2e}", f"{row['psnr']:.2f}"]
