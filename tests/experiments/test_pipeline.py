"""Pipelines of latent models: conditions, guidance, sizes, decoding, on tiny networks with random weights."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tqdm import tqdm

import configs
import models
from caching import Adaptive, Fitted, NoCache, Reuse, Threshold, Uniform, pass_costs
from configs import InputError
from experiments.grid import UNCACHED, Strategy
from experiments.pipeline import Pipeline, PipelineConfig, load_pipeline
from experiments.planning.end_error import final_states
from experiments.runs.run import SampleConfig, run
from experiments.runs.sampling import Made, begin_all, sample_images
from samplers import DiffusionConfig, GuidanceConfig, Sampler, SamplerConfig
from samplers.sampler import SAMPLERS

UNET = """
network: {resolution: 8, channels: 32, channel_mult: [1, 2], num_res_blocks: 1, attention_levels: [0, 1], num_heads: 2,
  context_dim: 16, timestep_embedding: cos_sin, norm_eps: 1.0e-5, downsample_padding: symmetric, %s}
diffusion: {schedule: scaled_linear, beta_start: 0.0015, beta_end: 0.0195, precision: rounded}
"""
CLASSES = (
    UNET % "in_channels: 3, out_channels: 3"
    + """
first_stage: {channel_mult: [1, 2], latent_channels: 3, codebook_size: 32, channels: 32, num_res_blocks: 1}
conditioning: {classes: {num_classes: 11, dim: 16, unconditional: 10}}
"""
)
TEXT = (
    UNET % "in_channels: 4, out_channels: 4"
    + """
first_stage: {channel_mult: [1, 2], latent_channels: 4, channels: 32, num_res_blocks: 1, scale_factor: 0.18215}
conditioning: {text: {vocab_size: 300, dim: 16, layers: 1, heads: 2, mlp_dim: 32, length: 12}}
"""
)
PIXELS = "network: {resolution: 16, channels: 32, channel_mult: [1, 2], num_res_blocks: 1}"
STEPS = SamplerConfig(steps=4, offset=1, final="first")


@pytest.fixture
def model(tmp_path: Path):
    def write(content: str) -> str:
        path = tmp_path / "model.yaml"
        path.write_text(content)
        return str(path)

    return write


def pipeline(path: str, **settings) -> Pipeline:
    return load_pipeline("random", path, PipelineConfig(**settings))


@torch.inference_mode()
def latents(pipe: Pipeline, seeds, policy=None) -> torch.Tensor:
    sampler = Sampler(STEPS, DiffusionConfig("scaled_linear", 0.0015, 0.0195, precision="rounded"))
    cached, noise = pipe.cached(Strategy("", policy or NoCache(), Reuse())), pipe.noise(seeds)
    for denoiser in cached:
        denoiser.begin(sampler.num_evals)
    *_, last = sampler.sample(pipe.bind(cached, seeds), noise(), noise)
    return last.x


def test_latents_are_decoded_to_images(model):
    pipe = pipeline(model(CLASSES), guidance=GuidanceConfig(1.5))
    assert pipe.shape == (3, 8, 8)
    images = pipe.decode(latents(pipe, [0, 1]))
    assert images.shape == (2, 3, 16, 16)
    assert images.isfinite().all()


def test_labels_are_drawn_from_each_images_seed_without_the_unconditional_class(model):
    pipe = pipeline(model(CLASSES))
    labels = [pipe.label(seed) for seed in range(200)]
    assert labels == [pipe.label(seed) for seed in range(200)]
    assert set(labels) == set(range(10))
    assert labels[:8] == [5, 5, 2, 9, 4, 1, 0, 8], "a seed keeps its class from version to version"


def test_labels_and_prompts_take_turns(model, tmp_path):
    assert [pipeline(model(CLASSES), labels=[4, 7]).label(seed) for seed in range(3)] == [4, 7, 4]
    (tmp_path / "prompts.txt").write_text("a cat\n\na dog\n")
    pipe = pipeline(model(TEXT), prompts=str(tmp_path / "prompts.txt"))
    assert [pipe.describe(seed) for seed in range(3)] == ["a cat", "a dog", "a cat"]


def test_a_label_changes_the_image_and_guidance_does_too(model):
    path = model(CLASSES)
    plain = latents(pipeline(path, labels=[1]), [0])
    assert not torch.allclose(plain, latents(pipeline(path, labels=[2]), [0]))
    assert not torch.allclose(plain, latents(pipeline(path, labels=[1], guidance=GuidanceConfig(3.0)), [0]))


def test_guidance_leads_away_from_the_negative_prompt(model):
    path = model(TEXT)

    def of(**settings):
        return latents(pipeline(path, prompt="a cat", guidance=GuidanceConfig(3.0), **settings), [0])

    assert torch.equal(of(), of(negative_prompt=""))
    assert not torch.allclose(of(), of(negative_prompt="a dog"))
    # Away from what it leads to: no guidance at all.
    away = of(negative_prompt="a cat")
    assert torch.allclose(away, latents(pipeline(path, prompt="a cat"), [0]), atol=1e-4)


def test_a_checkpoint_that_says_another_noise_schedule_is_refused(model, tmp_path):
    path, file = model(PIXELS), str(tmp_path / "its.safetensors")
    network = models.load("random", path)
    models.save(network, file, diffusion=asdict(DiffusionConfig("cosine", precision="float32")))
    with pytest.raises(InputError, match=r"noise schedule's schedule=cosine, but the model .*model\.yaml says linear"):
        load_pipeline(file, path, PipelineConfig())
    models.save(network, file, diffusion=asdict(DiffusionConfig(precision="float32")))
    load_pipeline(file, path, PipelineConfig())


@pytest.mark.parametrize("policy", [NoCache(), Uniform(2, 1)])
def test_one_guided_call_and_two_are_the_same_to_rounding(model, policy):
    path = model(CLASSES)
    one, two = (latents(pipeline(path, guidance=GuidanceConfig(2.0, calls)), [3, 4], policy) for calls in (1, 2))
    assert torch.allclose(one, two, atol=1e-4 * float(one.abs().max()))


def test_two_guided_calls_have_a_store_each(model):
    pipe = pipeline(model(CLASSES), guidance=GuidanceConfig(2.0, calls=2))
    first, second = pipe.cached(Strategy("", Uniform(2, 1), Reuse()))
    assert first.store is not second.store
    assert len(pipeline(model(CLASSES), guidance=GuidanceConfig(2.0)).cached(UNCACHED)) == 1


def test_plans_are_measured_against_guidance_everywhere(model):
    path = model(CLASSES)

    def uncached(**guidance) -> torch.Tensor:
        pipe = pipeline(path, guidance=GuidanceConfig(4.0, 2, **guidance))
        with tqdm(disable=True) as bar:
            return final_states(pipe, Sampler(STEPS, DiffusionConfig()), UNCACHED, [0, 1], 2, bar)[0]

    assert torch.equal(uncached(every=3), uncached())


@pytest.mark.parametrize("calls", [1, 2])
def test_adaptive_images_depend_on_their_seeds_alone_under_guidance(model, calls):
    pipe = pipeline(model(CLASSES), guidance=GuidanceConfig(1.5, calls))
    together = latents(pipe, [5, 6, 7], Threshold(0.3))
    assert torch.allclose(together[1:2], latents(pipe, [6], Threshold(0.3)), atol=1e-4 * float(together.abs().max()))


@pytest.mark.parametrize(("calls", "rows"), [(1, 2), (2, 1)])
def test_both_halves_of_one_guided_call_decide_together(model, calls, rows):
    denoisers = pipeline(model(CLASSES), guidance=GuidanceConfig(1.5, calls)).cached(Strategy("", Adaptive(), Reuse()))
    assert [denoiser.rows_per_image for denoiser in denoisers] == [rows] * calls


def test_image_i_depends_on_its_seed_alone(model):
    pipe = pipeline(model(CLASSES), guidance=GuidanceConfig(1.5))
    together = latents(pipe, [5, 6, 7], Uniform(2, 1))
    alone = latents(pipe, [6], Uniform(2, 1))
    assert torch.allclose(together[1:2], alone, atol=1e-4 * float(together.abs().max()))


def test_other_sizes_run(model):
    pipe = pipeline(model(TEXT), prompt="a cat", height=24, width=32)
    assert pipe.shape == (4, 12, 16)
    assert pipe.decode(latents(pipe, [0])).shape == (1, 3, 24, 32)


def test_low_precision_runs_the_networks_only(model):
    pipe = pipeline(model(TEXT), prompt="a cat", precision="bf16", guidance=GuidanceConfig(7.5))
    x = latents(pipe, [0])
    assert pipe.unet.conv_out.weight.dtype == torch.bfloat16
    assert x.dtype == torch.float32
    assert pipe.decode(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("content", "settings", "sentence"),
    [
        (TEXT, {}, 'needs prompt="..." or prompts=FILE'),
        (TEXT, {"prompt": "a", "prompts": "b"}, "either prompt or prompts"),
        (TEXT, {"prompts": "nowhere.txt"}, "nowhere.txt cannot be read"),
        (TEXT, {"prompt": "a", "height": 21}, "height 21 is no multiple of 4"),
        (TEXT, {"prompt": "a", "width": 0}, "width 0 is no multiple of 4"),
        (TEXT, {"prompt": "a", "labels": [1]}, "has no classes"),
        (CLASSES, {"prompt": "a"}, "takes no prompts"),
        (CLASSES, {"negative_prompt": "", "guidance": GuidanceConfig(2.0)}, "takes no prompts"),
        (TEXT, {"prompt": "a", "negative_prompt": "b"}, "give a guidance.scale as well"),
        (CLASSES, {"labels": [11]}, r"no class 11; labels lie in 0\.\.9"),
        (CLASSES, {"precision": "fp8"}, "precision"),
        (PIXELS, {"guidance": GuidanceConfig(2.0)}, "only models with a conditioner can be guided"),
    ],
)
def test_conditions_that_do_not_fit_end_in_one_sentence(model, content, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        pipeline(model(content), **settings)


@pytest.mark.parametrize(("content", "settings"), [(CLASSES, {}), (TEXT, {"prompt": "a cat"})], ids=["classes", "text"])
def test_a_whole_run_of_a_latent_model(model, tmp_path, content, settings):
    layer = settings | {
        "model": model(content), "checkpoint": "random", "num_images": 2, "batch_size": 2, "guidance": {"scale": 3.0},
        "sampler": {"name": "plms", "steps": 5, "offset": 1, "final": "first"}, "out": str(tmp_path / "out"),
        "policy": {"name": "uniform", "interval": 5, "branch": 0, "horizon": 5},
    }  # fmt: skip
    summary = run(configs.parse(SampleConfig, layer, where="test"))
    assert summary.rows[1].traces == [(None, 0, 0, 0, 0, 0)]  # six network calls, the second of them partial
    assert len(summary.conditions) == 2
    assert all(summary.conditions)
    image = np.asarray(Image.open(tmp_path / "out" / "uncached" / "000001.png"))
    assert image.shape == (16, 16, 3)


def sample(pipe: Pipeline, sampler: Sampler, policy, seeds: list[int]) -> Made:
    (run,) = begin_all(pipe, sampler, [Strategy("", policy, Reuse())])
    with tqdm(disable=True) as bar:
        return sample_images(pipe, sampler, run, seeds, bar)


PARTIAL = GuidanceConfig(3.0, interval=[0.05, 2.0], every=2)


def whole_run(path: str, out: Path, **settings):
    layer = {
        "model": path, "checkpoint": "random", "num_images": 2, "batch_size": 2, "guidance": {"scale": 3.0},
        "sampler": {"steps": 8, "offset": 1, "final": "first"}, "out": str(out),
        "policy": {"name": "none"}, "forecaster": {"name": "reuse"}, "device": "cpu",
    }  # fmt: skip
    return run(configs.parse(SampleConfig, layer | settings, where="test"))


def test_limits_that_limit_nothing_move_no_bit(model):
    path = model(CLASSES)
    plain, unlimited = (
        latents(pipeline(path, guidance=GuidanceConfig(3.0, 2, interval)), [3, 4], Uniform(2, 1))
        for interval in (None, [0.0, 1e9])
    )
    assert torch.equal(plain, unlimited)


@pytest.mark.parametrize("policy", [NoCache(), Uniform(3, 1)])
@pytest.mark.parametrize("name", SAMPLERS)
def test_partial_guidance_calls_the_network_as_often_as_its_plan_says(model, policy, name):
    pipe, sampler = pipeline(model(CLASSES), guidance=PARTIAL), Sampler(SamplerConfig(name, 8), DiffusionConfig())
    plan = PARTIAL.plan(sampler.eval_log_snr)
    _, made, images, *_ = sample(pipe, sampler, policy, [0, 1])
    assert {"both", "held", "off"} == set(made.guidance)
    assert len(made.traces[0]) == sampler.num_evals
    assert len(made.uncond_traces[0]) == plan.count("both")
    assert made.uncond_traces[0][0] is None  # the first guided evaluation has nothing to reuse
    assert images.isfinite().all()


def test_without_a_cache_both_calls_and_a_hand_written_loop_agree(model):
    """The pipeline's held differences, against the formula on the bare network."""
    pipe, sampler = pipeline(model(CLASSES), guidance=PARTIAL), Sampler(STEPS, DiffusionConfig())
    cond, uncond = pipe.cond([5]), pipe.conditioner.unconditional(1)
    plan, difference = iter(PARTIAL.plan(sampler.eval_log_snr)), 0

    def by_hand(x, t):
        nonlocal difference
        eps_c, entry = pipe.unet(x, t, cond)[0], next(plan)
        if entry == "both":
            difference = eps_c - pipe.unet(x, t, uncond)[0]
        return eps_c if entry == "off" else eps_c + 2.0 * difference

    noise = pipe.noise([5])
    with torch.inference_mode():
        *_, expected = sampler.sample(by_hand, noise(), noise)
    made = sample(pipe, sampler, NoCache(), [5])
    assert torch.allclose(made.images, pipe.decode(expected.x), atol=1e-4)


def test_calls_that_guidance_leaves_out_cost_nothing(model, tmp_path):
    path = model(CLASSES)
    plain = whole_run(path, tmp_path / "plain").rows[1]
    assert (plain.theoretical_speedup, plain.guidance, plain.uncond_traces) == (1.0, (), [])
    summary = whole_run(path, tmp_path / "limited", guidance={"scale": 3.0, "every": 3})
    uncached, limited = summary.rows
    assert (uncached.macs, uncached.guidance) == (plain.macs, ())
    assert limited.guidance == ("both", "held", "held") * 2 + ("both", "held")
    assert (len(limited.traces[0]), len(limited.uncond_traces[0])) == (8, 3)
    assert limited.theoretical_speedup == pytest.approx(16 / 11)
    assert limited.macs == pytest.approx(plain.macs * 11 / 16)
    assert "both halves at 3 of 8 evaluations" in str(summary)
    assert "8 / 0 + 3 / 0" in str(summary)


def test_a_cached_halfs_passes_are_priced_where_it_is_called(model, tmp_path):
    policy, guidance = {"name": "uniform", "interval": 2, "branch": 0}, {"scale": 3.0, "every": 3}
    path = model(CLASSES)
    _, row = whole_run(path, tmp_path / "out", policy=policy, guidance=guidance).rows
    assert row.traces == [(None, 0) * 4]
    assert row.uncond_traces == [(None, None, None)]  # at 0, 3 and 6; the pass due at 2 is made up at 3
    costs = pass_costs(pipeline(path).unet.config)
    spent = 7 * costs.full.total + 4 * costs.partial[0].total
    assert row.theoretical_speedup == pytest.approx(16 * costs.full.total / spent)


def test_fitted_weights_and_partial_guidance_are_refused_together(model):
    pipe = pipeline(model(CLASSES), guidance=PARTIAL)
    with pytest.raises(InputError, match="fitted weights hold where every network call is made"):
        pipe.cached(Strategy("", Uniform(2, 1), Fitted({})))
