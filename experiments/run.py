"""The main job: sample the same seeds with and without the cache, and say what it saved and what it cost."""

from __future__ import annotations

import hashlib
import json
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from caching import PlanFile, pass_costs
from configs import InputError
from experiments.comparison import save_comparison
from experiments.grid import UNCACHED, folder_name, strategies
from experiments.images import save_png, to_uint8
from experiments.metrics import closeness
from experiments.model import ModelConfig, model_config, pick_device
from experiments.pipeline import Pipeline, PipelineConfig, load_pipeline
from experiments.sampling import Run, sample_strategies
from experiments.summary import PolicyRow, Summary
from models import UNet
from models.files import write_atomically
from samplers import Sampler, SamplerConfig


@dataclass(frozen=True)
class SampleConfig(PipelineConfig):
    """One run of scripts/sample.py."""

    model: str = "mnist32"  # NAME in configs/models, or a YAML file
    checkpoint: str | None = None  # file, folder, URL, hf://owner/name, published name, random; null: the model's first
    sampler: SamplerConfig = field(default_factory=SamplerConfig)
    policy: dict[str, Any] = field(default_factory=lambda: {"name": "none"})  # lists of values are compared
    # What a cached feature is taken to be now; the paper's is reuse. auto: see default_forecaster. A plan file brings
    # its own.
    forecaster: dict[str, Any] = field(default_factory=lambda: {"name": "auto"})
    num_images: int = 16
    batch_size: int = 16
    seed: int = 0  # image i is made from seed + i
    compare: bool = True  # against the same seeds without a cache
    device: str = "auto"
    out: str | None = None  # null: outputs/, in a folder named after the model and this configuration

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("num_images", "batch_size"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")


def run(config: SampleConfig) -> Summary:
    """Samples, writes images, grid and summary.json into the output folder -> the summary."""
    model = model_config(config.model)
    device = pick_device(config.device)
    chosen = strategies(config.policy, config.forecaster, config.sampler)
    if config.compare:
        chosen.insert(0, UNCACHED)
    sampler = Sampler(config.sampler, model.diffusion)
    out = output_folder(config)
    checkpoint = config.checkpoint or default_checkpoint(model, config.model)
    pipeline = load_pipeline(checkpoint, config.model, config, device)

    for strategy in chosen:
        if isinstance(strategy.policy, PlanFile):
            digest = pipeline.unet.provenance.sha256
            strategy.policy.check(digest, asdict(config.sampler), sampler.eval_timesteps)

    seeds = range(config.seed, config.seed + config.num_images)
    runs = sample_strategies(pipeline, sampler, chosen, seeds, config.batch_size)

    for made in runs:
        for seed, image in zip(seeds, to_uint8(made.images), strict=True):
            save_png(image, out / folder_name(made.name) / f"{seed:06d}.png")
    save_comparison([(made.name, made.images) for made in runs], config.compare, out / "grid.png")
    summary = summarise(config, model, pipeline, sampler, runs, out)
    text = json.dumps(summary.to_json(), indent=2) + "\n"
    write_atomically(out / "summary.json", lambda unfinished: unfinished.write_text(text))
    return summary


def summarise(
    config: SampleConfig, model: ModelConfig, pipeline: Pipeline, sampler: Sampler, runs: list[Run], out: Path
) -> Summary:
    """Lays costs, times and distances of the runs beside each other; the first run is the uncached one, if any is."""
    network = pipeline.unet
    costs = pass_costs(network.config, pipeline.shape[1:], pipeline.context_length)
    group_norms = model.paper.group_norms if model.paper else True
    reference = runs[0] if config.compare else None
    rows = []
    for made in runs:
        is_reference = made is reference
        close = closeness(made.images, reference.images).summary() if reference and not is_reference else {}
        rows.append(
            PolicyRow(
                name=made.name,
                traces=made.traces,
                uncond_traces=made.uncond_traces,
                guidance=made.guidance_plan,
                macs=costs.average(made.priced, lambda macs: macs.paper(group_norms)),
                theoretical_speedup=costs.speedup(made.priced),
                seconds=made.seconds,
                measured_speedup=reference.seconds / made.seconds if reference else None,
                **close,
            )
        )
    return Summary(
        config=asdict(config),
        out=str(out),
        checkpoint=checkpoint_record(network),
        timesteps=sampler.eval_timesteps,
        steps_asked=config.sampler.steps,
        steps_made=len(sampler.table),
        conditions=[pipeline.describe(seed) for seed in range(config.seed, config.seed + config.num_images)],
        environment=environment(pipeline),
        random_weights=network.provenance.source == "random",
        rows=rows,
    )


def default_checkpoint(model: ModelConfig, name: str) -> str:
    if not model.checkpoints:
        raise InputError(f"the model {name} names no checkpoint; give checkpoint=FILE, or checkpoint=random to try it")
    return next(iter(model.checkpoints))


def output_folder(config: SampleConfig) -> Path:
    """Where the results go. A folder that holds another configuration's results is refused: images of two
    configurations must never be mixed."""
    settings = {key: value for key, value in asdict(config).items() if key != "out"}
    text = json.dumps(settings, sort_keys=True)
    if config.out is None:
        return Path("outputs") / f"{Path(config.model).stem}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    out = Path(config.out)
    if (out / "summary.json").exists():
        theirs = json.loads((out / "summary.json").read_text())["config"]
        changed = [key for key in settings if theirs.get(key) != settings[key]]
        if changed:
            difference = "; ".join(f"{key} {theirs.get(key)} there, {settings[key]} here" for key in changed)
            raise InputError(f"{out} holds another run ({difference}); choose another out=FOLDER or remove it")
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} exists and is not the folder of an earlier run; choose another out=FOLDER")
    return out


def checkpoint_record(network: UNet) -> dict[str, str]:
    provenance = network.provenance
    return {
        "source": provenance.source,
        "layout": provenance.layout,
        "published": provenance.published,
        "sha256": provenance.sha256,
    }


def environment(pipeline: Pipeline) -> dict[str, str | int]:
    """What the times depend on."""
    device = pipeline.device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "device": f"{device.type} ({name})",
        "precision": pipeline.config.precision,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }
