"""The pictures of a checkpoint's features."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from configs import InputError
from experiments.images import save_figure
from experiments.model import model_config, pick_device
from experiments.pipeline import load_pipeline
from experiments.planning import pictures
from experiments.planning.drift import measure_drift
from experiments.runs.run import SampleConfig
from models.files import check_writable
from samplers import Sampler


@dataclass(frozen=True)
class FeaturesConfig(SampleConfig):
    """One run of scripts/features.py: a sampling run without a cache, of which the features are watched."""

    UNUSED: ClassVar = ("policy", "forecaster", "batch_size", "compare", "storage")

    branches: list[int] | None = None  # null: one in four, from the outermost to the innermost
    num_images: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.branches == []:
            raise InputError("branches must name at least one")


def draw_features(config: FeaturesConfig) -> str:
    """Writes similarity.png and drift.png into config.out -> where they are.

    Raises InputError as sampling does, for branches that the network does not have, and where nothing can drift;
    OSError, before anything is sampled, where they cannot be written.
    """
    model = model_config(config.model)
    sampler = Sampler(config.sampler, model.diffusion)
    if sampler.num_evals < 2:
        raise InputError("features drift from one network evaluation to the next; take sampler.steps of at least 2")
    pipeline = load_pipeline(config.checkpoint, config.model, config, pick_device(config.device))
    inner = pipeline.unet.num_branches - 1
    branches = sorted({*range(0, inner, 4), inner}) if config.branches is None else config.branches
    for branch in branches:
        if not 0 <= branch <= inner:
            raise InputError(f"branch {branch} does not exist; this network has branches 0 (outermost) to {inner}")
    out = Path(config.out or f"outputs/features-{Path(config.model).stem}")
    similarity, drift = out / "similarity.png", out / "drift.png"
    for file in (similarity, drift):
        check_writable(file)
    seeds = range(config.seed, config.seed + config.num_images)
    drifts = measure_drift(pipeline, sampler, branches, seeds)
    save_figure(pictures.similarity(drifts, sampler.eval_timesteps), similarity)
    save_figure(pictures.drift(drifts), drift)
    return f"similarity.png and drift.png are in {out} (trajectories: {len(seeds)})"
