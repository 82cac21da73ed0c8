"""Caching equals the PyPI package DeepCache (by the authors of Ma et al. 2023), which patches a diffusers pipeline."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from diffusers import UNet2DConditionModel
from public_names import OPENAI_OPTIONS
from tiny_pipelines import PROMPT, ours, scheduler, stable_diffusion

import configs
from caching import CachedDenoiser, DiffusersUNet, Explicit, Reuse, Uniform, full_evals
from models import UNetConfig

deepcache = pytest.importorskip("DeepCache", reason="the package DeepCache is not installed")


@contextmanager
def patched(pipe, interval, branch):
    """The pipeline under the package -> the list to which each call of the U-Net adds whether it was a full pass.

    `cache_branch_id` i is our branch i, 0 the outermost, and not only within the outermost level.
    """
    was_full = []
    hooks = [
        pipe.unet.register_forward_pre_hook(lambda *call: was_full.append(False)),
        pipe.unet.mid_block.resnets[0].register_forward_hook(lambda *call: was_full.__setitem__(-1, True)),
    ]
    package = deepcache.DeepCacheSDHelper(pipe=pipe)
    package.set_params(cache_interval=interval, cache_branch_id=branch)
    package.enable()
    yield was_full
    package.disable()
    for hook in hooks:
        hook.remove()


@torch.no_grad()
def largest_difference(network, pipe, branch, inputs, context):
    """Between our outputs and the package's for successive `inputs`, as a fraction of the largest output.

    inputs (calls, B, 4, H, W): the first call is a full pass, the second and third are partial, the fourth is full.
    """
    pipe.scheduler.set_timesteps(len(inputs))
    calls = list(zip(inputs, pipe.scheduler.timesteps, strict=True))
    with patched(pipe, interval=3, branch=branch) as was_full:
        theirs = [pipe.unet(x, t, encoder_hidden_states=context).sample for x, t in calls]
    assert was_full == [True, False, False, True][: len(calls)]

    denoiser = CachedDenoiser(network, Uniform(interval=3, branch=branch), Reuse())
    denoiser.begin(len(calls))
    our = [denoiser(x, t.expand(len(x)), context) for x, t in calls]
    x, t = calls[1]
    uncached, _ = network(x, t.expand(len(x)), context)
    scale = uncached.abs().max()
    assert (our[1] - uncached).abs().max() > 1e-3 * scale  # a partial pass is another computation than a full one
    return float((torch.stack(our) - torch.stack(theirs)).abs().max() / scale)


def randn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A tiny Stable Diffusion pipeline of diffusers, and our network with its weights."""
    pipe = stable_diffusion(tmp_path_factory.mktemp("sd"))
    return pipe, ours(pipe.unet, tmp_path_factory.mktemp("unet"))


@pytest.mark.parametrize("branch", range(12))
def test_every_branch_computes_what_the_package_computes(pair, branch):
    pipe, network = pair
    bare = SimpleNamespace(unet=pipe.unet, scheduler=scheduler("ddim"))
    inputs, context = randn(4, 2, 4, 8, 8).double(), randn(2, 5, 32).double()
    assert largest_difference(network, bare, branch, inputs, context) < 1e-4


def sample(pipe, name, steps):
    pipe.scheduler = scheduler(name)
    return pipe(PROMPT, num_inference_steps=steps, guidance_scale=7.5, generator=torch.Generator().manual_seed(0),
                output_type="latent").images  # fmt: skip


def sample_theirs(pipe, name, steps, interval, branch):
    """-> (latents, the network calls that were full passes)."""
    with patched(pipe, interval, branch) as was_full:
        latents = sample(pipe, name, steps)
    return latents, tuple(i for i, full in enumerate(was_full) if full)


def sample_ours(pair, name, steps, policy):
    pipe, network = pair
    theirs, pipe.unet = pipe.unet, DiffusersUNet(CachedDenoiser(network, policy, Reuse()), pipe)
    try:
        return sample(pipe, name, steps), full_evals(pipe.unet.cached.trace)
    finally:
        pipe.unet = theirs


def relative(got, expected):
    return float((got - expected).abs().max() / expected.abs().max())


@pytest.mark.parametrize(("name", "branch"), [("ddim", 0), ("ddim", 2), ("plms", 1)])
def test_whole_runs_equal_the_packages(pair, name, branch):
    expected, full = sample_theirs(pair[0], name, 10, interval=5, branch=branch)
    got, our_full = sample_ours(pair, name, 10, Uniform(interval=5, branch=branch))
    assert our_full == full
    assert relative(got, expected) < 1e-4


def test_the_package_ends_plms_with_a_full_pass_that_the_paper_does_not_make(pair):
    """10 steps are 11 network calls. The paper's code lays full passes over the steps, the package over the calls."""
    _, full = sample_theirs(pair[0], "plms", 10, interval=5, branch=1)
    assert full == (0, 5, 10)
    _, paper = sample_ours(pair, "plms", 10, Uniform(interval=5, branch=1, horizon=10))
    assert paper == (0, 5)


def test_the_package_takes_the_repeated_timestep_of_plms_for_its_first_occurrence(pair):
    """It finds the call's number by looking its timestep up, so the third network call counts as the second again. At
    intervals that divide 2 it is a partial pass where the paper's rule has a full one; a plan written out replays it.
    """
    expected, full = sample_theirs(pair[0], "plms", 10, interval=2, branch=1)
    assert full == (0, 4, 6, 8, 10)
    assert full_evals(Uniform(interval=2, branch=1).plan(11)) == (0, 2, 4, 6, 8, 10)
    got, _ = sample_ours(pair, "plms", 10, Explicit(full=list(full), branch=1))
    assert relative(got, expected) < 1e-4
    different, _ = sample_ours(pair, "plms", 10, Uniform(interval=2, branch=1))
    assert relative(different, expected) > 1e-3


@pytest.mark.slow
def test_stable_diffusion_at_full_size(tmp_path):
    """860 million parameters (7 GB in two copies), on 32x32 latents to save time."""
    config = configs.parse(UNetConfig, configs.read(configs.find("sd_v1", "models"))["network"], where="sd_v1")
    torch.manual_seed(0)
    reference = UNet2DConditionModel(
        sample_size=config.resolution, cross_attention_dim=config.context_dim, attention_head_dim=config.num_heads,
        **OPENAI_OPTIONS,
    ).eval().requires_grad_(False)  # fmt: skip
    network = ours(reference, tmp_path)
    assert network.config == config
    pipe = SimpleNamespace(unet=reference, scheduler=scheduler("ddim"))
    inputs, context = randn(2, 1, 4, 32, 32), randn(1, 77, config.context_dim)
    for branch in (0, 1, 2):
        assert largest_difference(network, pipe, branch, inputs, context) < 1e-4, f"branch {branch}"
