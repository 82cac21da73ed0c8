"""Inside diffusers: its pipelines and their own sampling loops around the cached network."""

import runpy
import sys
from types import SimpleNamespace

import diffusers
import pytest
import torch
from diffusers import DDIMPipeline, DDIMScheduler, DDPMPipeline, DDPMScheduler, StableDiffusionImg2ImgPipeline
from tiny_pipelines import PROMPT, SD_DIFFUSION, ddpm_unet, ours, sampler_config, scheduler, stable_diffusion

import caching.adapter
import models
from caching import (
    Adaptive,
    AdaptiveDenoiser,
    CachedDenoiser,
    DiffusersUNet,
    Explicit,
    Lagrange,
    NoCache,
    Reuse,
    Uniform,
)
from configs import InputError
from samplers import DiffusionConfig, Sampler, SamplerConfig, guide

DIFFUSION = DiffusionConfig(precision="float32")


@pytest.fixture(scope="module")
def pixels(tmp_path_factory):
    """A DDPM network: diffusers' and ours."""
    reference = ddpm_unet()
    return reference, ours(reference, tmp_path_factory.mktemp("ddpm"))


@pytest.fixture(scope="module")
def latents(tmp_path_factory):
    """Stable Diffusion in small: a function to a new pipeline, and our U-Net with the same weights."""
    folder = tmp_path_factory.mktemp("sd")
    pipe = stable_diffusion(folder)
    try:
        pipe.text_encoder(torch.zeros(1, 5, dtype=torch.long))
    except RuntimeError as error:  # torch 2.6 with newer versions of transformers
        pytest.skip(f"transformers' CLIP does not run in float64 here ({error})")
    return lambda name: stable_diffusion(folder, name), ours(pipe.unet, folder)


def generator():
    return torch.Generator().manual_seed(3)


def assert_same(got, expected, tolerance=1e-4):
    """Equal within `tolerance` of the largest value; latents of random networks grow."""
    got, expected = torch.as_tensor(got), torch.as_tensor(expected)
    scale = max(1.0, float(expected.abs().max()))
    torch.testing.assert_close(got / scale, expected / scale, atol=tolerance, rtol=0)


PIXEL_PIPELINES = {"ddpm": (DDPMPipeline, DDPMScheduler), "ddim": (DDIMPipeline, DDIMScheduler)}


def sample_pixels(name, network, policy=None, steps=12):
    """Images of a DDPM or DDIM pipeline (2, 16, 16, 3) in 0..1; with a policy, `network` is ours."""
    pipeline, its_scheduler = PIXEL_PIPELINES[name]
    pipe = pipeline(unet=network, scheduler=its_scheduler())
    if policy is not None:
        pipe.unet = DiffusersUNet(CachedDenoiser(network, policy, Reuse()), pipe)
    pipe.set_progress_bar_config(disable=True)
    clipped = {"use_clipped_model_output": True} if name == "ddim" else {}  # as samplers.ddim with clip
    run = pipe(batch_size=2, generator=generator(), num_inference_steps=steps, output_type="np", **clipped)
    return run.images, pipe.unet


@pytest.mark.parametrize("name", PIXEL_PIPELINES)
def test_without_a_cache_pixel_pipelines_make_their_own_images(pixels, name):
    theirs, our = pixels
    expected, _ = sample_pixels(name, theirs)
    got, _ = sample_pixels(name, our, NoCache())
    assert expected.std() > 0.1
    assert_same(got, expected)


def test_adaptive_caching_runs_inside_pipelines(pixels):
    _, our = pixels
    expected, _ = sample_pixels("ddim", our, Uniform(interval=3, branch=2))
    pipe = DDIMPipeline(unet=our, scheduler=DDIMScheduler())
    policy = Adaptive(bound=float("inf"), max_age=3, branch=2)
    pipe.unet = DiffusersUNet(AdaptiveDenoiser(our, policy, Reuse()), pipe)
    for _ in range(2):  # the second run finds nothing of the first
        run = pipe(batch_size=2, generator=generator(), num_inference_steps=12, output_type="np",
                   use_clipped_model_output=True)  # fmt: skip
        assert_same(run.images, expected)
    assert pipe.unet.cached.traces == [Uniform(interval=3, branch=2).plan(12)] * 2


@pytest.mark.parametrize("name", PIXEL_PIPELINES)
def test_pixel_pipelines_run_cached_as_our_own_samplers_do(pixels, name):
    _, our = pixels
    policy = Uniform(interval=3, branch=2)
    got, adapter = sample_pixels(name, our, policy)
    assert adapter.cached.trace == policy.plan(12)

    draws = generator()
    noise = lambda: torch.randn(2, 3, 16, 16, generator=draws)  # noqa: E731  (the pipeline's own stream)
    sampler = Sampler(SamplerConfig(name=name, steps=12, spacing="leading", clip=True), DIFFUSION)
    denoiser = CachedDenoiser(our, policy, Reuse())
    denoiser.begin(sampler.num_evals)
    *_, last = sampler.sample(denoiser, noise(), noise)
    assert_same(got, (last.x / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1))
    assert abs(got - sample_pixels(name, our, NoCache())[0]).max() > 1e-3


def sample_latents(pipe, steps=8, **options):
    options = {"output_type": "latent"} | options
    return pipe(PROMPT, num_inference_steps=steps, guidance_scale=7.5, generator=generator(), **options).images


def cached_pipe(latents, name, policy):
    """A Stable Diffusion pipeline whose U-Net is our cached one."""
    build, our = latents
    pipe = build(name)
    pipe.unet = DiffusersUNet(CachedDenoiser(our, policy, Reuse()), pipe)
    return pipe


@pytest.mark.parametrize(("name", "output_type"), [("plms", "np"), ("ddim", "latent")])
def test_without_a_cache_stable_diffusion_makes_its_own_images(latents, name, output_type):
    expected = sample_latents(latents[0](name), output_type=output_type)
    got = sample_latents(cached_pipe(latents, name, NoCache()), output_type=output_type)
    assert expected.std() > 0.05
    assert_same(got, expected)


@pytest.mark.parametrize("name", ["plms", "ddim"])
def test_stable_diffusion_runs_cached_as_our_own_samplers_do(latents, name):
    _, our = latents
    policy = Uniform(interval=3, branch=1)
    pipe = cached_pipe(latents, name, policy)
    got = sample_latents(pipe)

    sampler = Sampler(sampler_config(name, 8), SD_DIFFUSION)
    assert sampler.num_evals == (9 if name == "plms" else 8)  # PNDM evaluates its second timestep twice
    assert pipe.unet.cached.trace == policy.plan(sampler.num_evals)
    cond, uncond = pipe.encode_prompt(PROMPT, "cpu", 1, do_classifier_free_guidance=True)
    denoiser = CachedDenoiser(our, policy, Reuse())
    denoiser.begin(sampler.num_evals)
    x = torch.randn(1, 4, 8, 8, generator=generator(), dtype=torch.float64)
    *_, last = sampler.sample(guide(denoiser, cond, uncond, scale=7.5), x, noise=lambda: None)
    assert_same(got, last.x)


@pytest.mark.parametrize("name", ["plms", "ddim"])
def test_every_run_begins_anew_also_after_one_that_was_broken_off(latents, name):
    pipe = cached_pipe(latents, name, Uniform(interval=4, branch=2))
    first = sample_latents(pipe)
    assert torch.equal(sample_latents(pipe), first)

    def stop(pipe, step, timestep, tensors):
        if step == 1:
            raise KeyboardInterrupt
        return {}

    for steps in (8, 20):
        with pytest.raises(KeyboardInterrupt):
            pipe(PROMPT, num_inference_steps=steps, callback_on_step_end=stop)
        assert len(pipe.unet.cached.trace) == 2
        assert torch.equal(sample_latents(pipe), first)
    sample_latents(pipe, steps=5)  # another number of steps, another batch
    sample_latents(pipe, num_images_per_prompt=2)
    assert torch.equal(sample_latents(pipe), first)


def test_a_run_broken_off_where_another_one_would_go_on_begins_anew(latents):
    """10 and 5 steps share timesteps: after 801 of the first, 801 of the second is next in both."""
    pipe = cached_pipe(latents, "ddim", Uniform(interval=5, branch=2))
    x, context = torch.ones(1, 4, 8, 8).double(), torch.zeros(1, 10, 32).double()
    pipe.scheduler.set_timesteps(10)
    assert pipe.scheduler.timesteps[:2].tolist() == [901, 801]
    pipe.unet(x, pipe.scheduler.timesteps[0], context)
    pipe.scheduler.set_timesteps(5)
    pipe.unet(x, pipe.scheduler.timesteps[0], context)
    assert pipe.unet.cached.trace == (None,)
    assert len(pipe.unet.cached.plan) == 5


def test_a_loop_of_ones_own_may_restart_without_set_timesteps(pixels):
    adapter, x = adapted(pixels[1], Uniform(interval=3, branch=1)), torch.ones(1, 3, 16, 16)
    timesteps = adapter.pipe.scheduler.timesteps
    whole = [adapter(x, t).sample for t in timesteps]
    for t in timesteps[:2]:  # after a whole run, and broken off
        adapter(2 * x, t)
    assert all(torch.equal(adapter(x, t).sample, expected) for t, expected in zip(timesteps, whole, strict=True))


@pytest.mark.parametrize("scheduler", [
    "DPMSolverMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler", "KDPM2DiscreteScheduler",
    "PNDMScheduler", "UniPCMultistepScheduler",
])  # fmt: skip
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # diffusers' use of numpy
@torch.no_grad()
def test_any_scheduler_may_drive_it(pixels, scheduler):
    """Several network calls per step, repeated timesteps and fractional ones among them."""

    def sample(unet, pipe):
        x = torch.randn(1, 3, 16, 16, generator=generator())
        pipe.scheduler.set_timesteps(5)
        for t in pipe.scheduler.timesteps:
            eps = unet(pipe.scheduler.scale_model_input(x, t), t).sample
            x = pipe.scheduler.step(eps, t, x).prev_sample
        return x

    reference, our = pixels
    pipe = SimpleNamespace(scheduler=getattr(diffusers, scheduler)())
    adapter = DiffusersUNet(CachedDenoiser(our, NoCache(), Reuse()), pipe)
    assert_same(sample(adapter, pipe), sample(reference, pipe))
    assert adapter.cached.trace == (None,) * len(pipe.scheduler.timesteps)


def test_a_fast_network_takes_the_plain_ones_place(latents):
    build, our = latents
    images = []
    for network in (our, models.SplitUNet(models.FastUNet(our))):
        pipe = build("plms")
        pipe.unet = DiffusersUNet(CachedDenoiser(network, Uniform(interval=3, branch=1), Reuse()), pipe)
        run = pipe(PROMPT, num_inference_steps=8, generator=generator(), output_type="np", height=16, width=16)
        images.append(run.images)
    assert_same(images[1], images[0], tolerance=1e-8)


@pytest.mark.parametrize("fast", [False, True])
def test_a_pipelines_own_network_is_cached_as_it_is_in_memory(latents, fast):
    """Fine-tuned, say: no file has these weights."""
    pipe = latents[0]("plms")
    torch.nn.init.constant_(pipe.unet.conv_out.bias, 0.1)
    expected = sample_latents(pipe)
    network = models.from_diffusers(pipe.unet)
    network = models.fast(network) if fast else network
    pipe.unet = DiffusersUNet(CachedDenoiser(network, NoCache(), Reuse()), pipe)
    assert_same(sample_latents(pipe), expected)
    assert pipe.unet.dtype == torch.float64
    policy = Uniform(interval=3, branch=1)
    pipe.unet = DiffusersUNet(CachedDenoiser(network, policy, Reuse()), pipe)
    assert abs(sample_latents(pipe) - expected).max() > 1e-3
    assert pipe.unet.cached.trace == policy.plan(9)


def adapted(network, policy=None, steps=4):
    pipe = SimpleNamespace(scheduler=DDIMScheduler())
    pipe.scheduler.set_timesteps(steps)
    return DiffusersUNet(CachedDenoiser(network, policy or Uniform(interval=2, branch=1), Reuse()), pipe)


@pytest.mark.parametrize("timestep", [750, 750.0, torch.tensor(750), torch.tensor([750]), torch.tensor([750, 750])])
def test_timesteps_may_come_as_diffusers_takes_them(pixels, timestep):
    reference, our = pixels
    x = torch.ones(2, 3, 16, 16)
    with torch.no_grad():
        expected = reference(x, timestep).sample
    for return_dict in (True, False):
        output = adapted(our)(x, timestep, return_dict=return_dict)
        assert_same(output[0], expected, tolerance=2e-5)
        assert output.sample is output[0]


def test_forecasts_in_log_snr_know_the_schedulers_time(pixels):
    class Seen(Lagrange):
        def weights(self, stored, now, branch):
            seen.append(now.log_snr)
            return super().weights(stored, now, branch)

    seen: list[float] = []
    pipe = SimpleNamespace(scheduler=DDIMScheduler())
    pipe.scheduler.set_timesteps(8)
    network = DiffusersUNet(CachedDenoiser(pixels[1], Uniform(interval=2, branch=1), Seen(1, "log_snr")), pipe)
    for timestep in pipe.scheduler.timesteps:
        network(torch.ones(1, 3, 16, 16), timestep)
    expected = Sampler(SamplerConfig(steps=8), DIFFUSION).eval_log_snr[1::2]
    assert seen == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(
    "scheduler",
    [SimpleNamespace(), SimpleNamespace(alphas_cumprod=None), SimpleNamespace(alphas_cumprod=torch.rand(10))],
)
@pytest.mark.parametrize("timesteps", [[99.0, 5.0], [10.0, 5.0], [9.5, 5.0]])
def test_schedulers_without_alphas_of_their_timesteps_have_no_log_snr(scheduler, timesteps):
    assert caching.adapter.log_snr(scheduler, timesteps) is None


def test_class_labels_reach_the_network():
    config = models.UNetConfig(resolution=8, channels=32, channel_mult=[1], num_res_blocks=1, num_classes=3)
    network, x, labels = models.load("random", config), torch.ones(2, 3, 8, 8), torch.tensor([0, 2])
    expected, _ = network(x, torch.tensor([750, 750]), labels)
    assert torch.equal(adapted(network, NoCache())(x, 750, class_labels=labels).sample, expected)


def test_the_adapter_is_a_module_that_pipelines_move_and_ask(latents):
    build, our = latents
    pipe = cached_pipe(latents, "plms", NoCache())
    theirs = build("plms").unet
    for key in ("in_channels", "out_channels", "sample_size", "cross_attention_dim", "time_cond_proj_dim"):
        assert getattr(pipe.unet.config, key) == getattr(theirs.config, key), key
    assert (pipe.unet.dtype, pipe.unet.device) == (theirs.dtype, theirs.device)
    pipe.to(torch.float32)
    try:
        assert pipe.unet.dtype == our.conv_out.weight.dtype == torch.float32
        assert sample_latents(pipe, steps=2).isfinite().all()
    finally:
        our.to(torch.float64)  # shared with the other tests


def test_what_is_no_cached_network_or_pipeline_is_refused(pixels):
    reference, our = pixels
    pipe = DDPMPipeline(unet=reference, scheduler=DDPMScheduler())
    with pytest.raises(InputError, match="takes a CachedDenoiser, or what cached_denoiser made, not a UNet"):
        DiffusersUNet(our, pipe)
    with pytest.raises(InputError, match="takes the pipeline, whose scheduler it follows, not a DDPMScheduler"):
        DiffusersUNet(CachedDenoiser(our, Uniform(), Reuse()), pipe.scheduler)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda unet, x: unet(x, 500), r"timestep 500 is out of the scheduler's order \(they begin at 750\)"),
        (lambda unet, x: [unet(x, t) for t in (750, 500, 0)],
         r"timestep 0 is out of the scheduler's order \(250 follows\)"),
        (lambda unet, x: unet(x, 750, down_block_additional_residuals=(x,)), "takes no down_block_additional"),
        (lambda unet, x: unet(x, 750, cross_attention_kwargs={"scale": 0.5}), "takes no cross_attention_kwargs"),
        (lambda unet, x: unet(x, 750, x, class_labels=x), "either a context .* or class_labels, not both"),
        (lambda unet, x: unet(x, 750, torch.zeros(1, 10, 32)), "unconditional and takes no cond"),
    ],
)  # fmt: skip
def test_wrong_use_is_refused_in_one_sentence(pixels, call, sentence):
    with pytest.raises(InputError, match=sentence):
        call(adapted(pixels[1]), torch.zeros(1, 3, 16, 16))


def test_empty_arguments_of_diffusers_networks_are_accepted(pixels):
    adapter = adapted(pixels[1])
    adapter(torch.zeros(1, 3, 16, 16), 750, timestep_cond=None, cross_attention_kwargs={}, added_cond_kwargs=None)


def test_the_scheduler_may_be_exchanged(latents):
    pipe, policy = cached_pipe(latents, "plms", Uniform(interval=3, branch=1)), Uniform(interval=3, branch=1)
    sample_latents(pipe)
    pipe.scheduler = scheduler("ddim")
    assert torch.equal(sample_latents(pipe), sample_latents(cached_pipe(latents, "ddim", policy)))


def test_a_scheduler_without_timesteps_is_refused(pixels):
    adapter = adapted(pixels[1])
    adapter.pipe.scheduler = scheduler("plms")
    with pytest.raises(InputError, match="has no timesteps yet; call its set_timesteps"):
        adapter(torch.zeros(1, 3, 16, 16), 750)


def test_image_to_image_is_refused(latents):
    """It starts in the middle of the timesteps, for which no plan was made."""
    pipe = StableDiffusionImg2ImgPipeline(**cached_pipe(latents, "ddim", NoCache()).components,
                                          requires_safety_checker=False)  # fmt: skip
    pipe.unet.pipe = pipe
    with pytest.raises(InputError, match=r"out of the scheduler's order \(they begin at 876\).* from its start"):
        pipe(PROMPT, image=torch.zeros(1, 3, 16, 16), num_inference_steps=8, strength=0.5)


def test_a_plan_that_does_not_fit_the_pipeline_is_refused(latents):
    pipe = cached_pipe(latents, "plms", Explicit(entries=[None] * 8))
    with pytest.raises(InputError, match="plan has 8 entries, but the sampler makes 9"):
        sample_latents(pipe)


def test_the_adapter_needs_no_diffusers(monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers", None)  # an import of it would now fail
    runpy.run_path(caching.adapter.__file__)
