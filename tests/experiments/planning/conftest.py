"""What tests of plans share: a tiny model with weights in a file, and configurations of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import configs
import models
from experiments.pipeline import Pipeline, PipelineConfig, load_pipeline
from experiments.planning.calibration import calibrate
from experiments.planning.search import CalibrateConfig
from samplers import DiffusionConfig, Sampler, SamplerConfig

TINY = """
network: {resolution: 8, in_channels: 1, out_channels: 1, channels: 32, channel_mult: [1, 2], num_res_blocks: 1,
          attention_levels: [1]}
diffusion: {num_timesteps: 1000}
"""


@pytest.fixture(scope="session")
def tiny(tmp_path_factory) -> Path:
    """A folder with a tiny model and reproducible weights in a file."""
    folder = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.yaml").write_text(TINY)
    network = models.load("random", folder / "tiny.yaml")
    models.save(network, folder / "tiny.safetensors")
    return folder


@pytest.fixture
def pipeline(tiny) -> Pipeline:
    return load_pipeline(str(tiny / "tiny.safetensors"), str(tiny / "tiny.yaml"), PipelineConfig())


@pytest.fixture(scope="session")
def sampler() -> Sampler:
    """That of `settings`."""
    return Sampler(SamplerConfig(steps=8), DiffusionConfig())


@pytest.fixture(scope="session")
def settings(tiny) -> Callable[..., dict[str, Any]]:
    """settings(key=value): a sampling run of the tiny model."""

    def of(**more):
        return {
            "model": str(tiny / "tiny.yaml"), "checkpoint": str(tiny / "tiny.safetensors"), "device": "cpu",
            "sampler": {"steps": 8}, "batch_size": 2,
        } | more  # fmt: skip

    return of


@pytest.fixture(scope="session")
def calibration(settings) -> Callable[..., CalibrateConfig]:
    """calibration(folder, key=value): a short search of a plan, which goes to plans/a.json of the folder."""

    def of(folder, **more):
        layer = settings(budget=0.5, seeds=2, screening=1, trials=3, plan=str(folder / "plans" / "a.json"),
                         branches=[-1, 0, 1]) | more  # fmt: skip
        return configs.parse(CalibrateConfig, layer, where="test")

    return of


@pytest.fixture(scope="session")
def plans(tmp_path_factory, calibration) -> str:
    """A folder with a calibrated plan, a.json."""
    folder = tmp_path_factory.mktemp("calibrated")
    calibrate(calibration(folder))
    return str(folder / "plans")
