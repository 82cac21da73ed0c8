"""Engines: the same images, whatever runs them, and which features are kept under which strategy."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tqdm import tqdm

import configs
from caching import Adaptive, Lagrange, Nested, NoCache, Reuse, Uniform
from configs import InputError
from experiments.engine import Engine, EngineConfig
from experiments.grid import UNCACHED, Strategy
from experiments.pipeline import Pipeline, PipelineConfig, load_pipeline
from experiments.runs.run import SampleConfig, run
from experiments.runs.sampling import begin_all, sample_images, warm_up
from models import FastUNet, SplitUNet, UNet, UNetConfig
from models.programs import Programs, compile_passes
from samplers import DiffusionConfig, GuidanceConfig, Sampler, SamplerConfig

MODEL = """
network: {resolution: 8, channels: 32, channel_mult: [1, 2], num_res_blocks: 1, attention_levels: [0, 1], num_heads: 2,
  context_dim: 16, timestep_embedding: cos_sin, norm_eps: 1.0e-5, downsample_padding: symmetric}
first_stage: {channel_mult: [1, 2], latent_channels: 3, codebook_size: 32, channels: 32, num_res_blocks: 1}
conditioning: {classes: {num_classes: 11, dim: 16, unconditional: 10}}
"""
REUSE, FORECAST = Strategy("r", Uniform(3, 1), Reuse()), Strategy("f", Uniform(3, 1), Lagrange(1))
NESTED = Strategy("n", Nested([0, 2], [2, 4]), Reuse())
ADAPTIVE = Strategy("a", Adaptive(), Reuse())


@pytest.fixture
def model(tmp_path: Path) -> str:
    (tmp_path / "model.yaml").write_text(MODEL)
    return str(tmp_path / "model.yaml")


def engine(**settings) -> Engine:
    return Engine(EngineConfig(**settings), UNet(UNetConfig(resolution=8, channels=32, channel_mult=[1])).eval())


@torch.inference_mode()
def images(pipe: Pipeline, strategy: Strategy) -> torch.Tensor:
    sampler = Sampler(SamplerConfig(steps=6), DiffusionConfig())
    cached, noise = pipe.cached(strategy), pipe.noise([3, 4])
    for denoiser in cached:
        denoiser.begin(sampler.num_evals, sampler.eval_log_snr)
    *_, last = sampler.sample(pipe.bind(cached, [3, 4]), noise(), noise)
    return pipe.decode(last.x)


@pytest.mark.parametrize("calls", [1, 2])
@pytest.mark.parametrize("strategy", [UNCACHED, REUSE, FORECAST, ADAPTIVE], ids=lambda s: s.name)
def test_the_fast_engine_makes_the_plain_ones_images(model, strategy, calls):
    guidance = GuidanceConfig(2.0, calls)
    fast, plain = (
        images(load_pipeline("random", model, PipelineConfig(engine=name, guidance=guidance)), strategy)
        for name in ("fast", "plain")
    )
    assert torch.allclose(fast, plain, atol=1e-4 * float(plain.abs().max()))


def test_features_are_split_where_that_changes_nothing():
    fast = engine()
    assert isinstance(fast.network(REUSE), SplitUNet)
    assert type(fast.network(FORECAST)) is FastUNet
    assert type(fast.network(ADAPTIVE)) is FastUNet


def test_what_is_derived_from_reuse_may_forecast_anything():
    class Half(Reuse):
        def weights(self, stored, now, branch):
            return [0.5]

    assert type(engine().network(Strategy("half", Uniform(2, 1), Half()))) is FastUNet


def test_or_where_it_is_asked_for():
    assert isinstance(engine(split=True).network(FORECAST), SplitUNet)
    assert type(engine(split=True).network(ADAPTIVE)) is FastUNet
    assert type(engine(split=False).network(REUSE)) is FastUNet
    assert type(engine(engine="plain").network(REUSE)) is UNet


def test_all_that_an_engine_hands_out_shares_its_parameters():
    fast = engine()
    split = fast.network(REUSE)
    assert split is fast.network(Strategy("", NoCache(), Reuse()))
    assert {id(p) for p in fast.unet.parameters()} <= {id(p) for p in split.parameters()}


def test_what_contradicts_itself_is_refused():
    with pytest.raises(InputError, match="the plain engine splits nothing"):
        EngineConfig(engine="plain", split=True)
    with pytest.raises(InputError, match="did you mean 'fast'"):
        EngineConfig(engine="fats")
    with pytest.raises(InputError, match="adaptive policies decide in the middle"):
        engine(compile=True).network(ADAPTIVE)


@pytest.mark.parametrize("name", ["plain", "fast"])
def test_the_network_that_was_given_stays_uncompiled(model, name, monkeypatch):
    monkeypatch.setattr("experiments.engine.compile_passes", lambda network: compile_passes(network, "eager"))
    pipe = load_pipeline("random", model, PipelineConfig(engine=name, compile=True))
    assert isinstance(pipe.unet.run, Programs)
    assert not isinstance(pipe.parts.unet.run, Programs)


def test_the_unconditional_calls_depths_are_warmed_up_too(model, monkeypatch):
    """Where guidance leaves out calls, the other half's may all be full."""
    monkeypatch.setattr("experiments.engine.compile_passes", lambda network: compile_passes(network, "eager"))
    sampler = Sampler(SamplerConfig(steps=8), DiffusionConfig())
    guidance = GuidanceConfig(2.0, every=4)
    pipe = load_pipeline("random", model, PipelineConfig(compile=True, guidance=guidance))
    (one,) = begin_all(pipe, sampler, [REUSE])
    assert len({cached.branches for cached in one.cached}) == 2
    warm_up(pipe, one.cached, 2)
    count = len(one.cached[0].unet.run)
    sample_images(pipe, sampler, one, [0, 1], tqdm(disable=True))
    assert len(one.cached[0].unet.run) == count


@pytest.mark.parametrize("strategy", [REUSE, FORECAST, NESTED], ids=lambda s: s.name)
def test_nothing_is_compiled_after_the_warm_up(model, strategy, monkeypatch):
    monkeypatch.setattr("experiments.engine.compile_passes", lambda network: compile_passes(network, "eager"))
    sampler = Sampler(SamplerConfig("plms", steps=8), DiffusionConfig())
    made = {}
    for compiled in (True, False):
        pipe = load_pipeline("random", model, PipelineConfig(compile=compiled, guidance=GuidanceConfig(2.0)))
        with torch._dynamo.config.patch(error_on_recompile=True):
            (one,) = begin_all(pipe, sampler, [strategy])
            warm_up(pipe, one.cached, 2)
            count = len(one.cached[0].unet.run) if compiled else 0
            made[compiled] = [sample_images(pipe, sampler, one, [seed, seed + 1], tqdm(disable=True)).images
                              for seed in (0, 2)]  # fmt: skip
            assert not compiled or len(one.cached[0].unet.run) == count > 1
    for got, wanted in zip(made[True], made[False], strict=True):
        assert torch.allclose(got, wanted, atol=1e-4 * float(wanted.abs().max()))


def test_the_summary_says_what_ran_and_prices_it(model, tmp_path):
    layer = {
        "model": model, "checkpoint": "random", "num_images": 1, "batch_size": 1, "device": "cpu",
        "sampler": {"steps": 4}, "policy": {"name": "uniform", "interval": 4, "branch": 0},
        "forecaster": {"name": "reuse"},
    }  # fmt: skip
    summaries = {
        name: run(configs.parse(SampleConfig, layer | {"engine": name, "out": str(tmp_path / name)}, where="test"))
        for name in ("fast", "plain")
    }
    _, plain = summaries["plain"].rows
    uncached, split = summaries["fast"].rows
    assert (plain.split_speedup, uncached.split_speedup) == (None, None)
    assert split.macs == plain.macs, "counted as in the paper"
    assert split.split_speedup > split.theoretical_speedup == plain.theoretical_speedup
    assert f"{split.theoretical_speedup:.2f}x, split {split.split_speedup:.2f}x" in str(summaries["fast"])
    assert "fast engine" in str(summaries["fast"])
