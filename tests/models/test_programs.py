"""Compiled passes: one program per depth, the same numbers."""

from dataclasses import replace

import pytest
import torch
from small_networks import DDPM, LDM

import models
from caching import CachedDenoiser, Nested, Reuse, Uniform
from models import FastUNet, SplitUNet
from models.programs import compile_passes

TINY = replace(DDPM, resolution=8, channel_mult=[1], num_res_blocks=1, attention_levels=[])  # branches 0 and 1
T = torch.tensor([17, 903])


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def trajectory(network, policy, x, evals=4, cond=None):
    denoiser = CachedDenoiser(network, policy, Reuse())
    denoiser.begin(evals)
    with torch.inference_mode():
        return [denoiser(x * (1 - 0.1 * i), T[: len(x)].to(x.device) - i, cond) for i in range(evals)]


def check(got, wanted, tolerance):
    for mine, theirs in zip(got, wanted, strict=True):
        assert (mine - theirs).abs().max() <= tolerance * theirs.abs().max()


@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_every_depth_has_one_program_and_the_same_numbers(x, backend, capsys):
    plain = models.load("random", TINY)
    network = SplitUNet(FastUNet(plain))
    programs = compile_passes(network, backend)
    policy = Nested([0, 1], [2, 3])  # full, at 0, at 1, full
    check(trajectory(network, policy, x), trajectory(plain, policy, x), 1e-5)
    assert len(programs) == 3
    assert programs.seconds > 0
    progress = capsys.readouterr().err
    assert "compiling the full pass" in progress
    assert "compiling the pass at branch 1" in progress
    check(trajectory(network, policy, x), trajectory(plain, policy, x), 1e-5)
    assert len(programs) == 3


def test_a_batch_of_another_size_runs_uncompiled(x):
    """It would take as long to compile as the first, for the last batch of a run alone."""
    plain = models.load("random", TINY)
    network = FastUNet(plain)
    programs = compile_passes(network, "eager")
    trajectory(network, Uniform(2, 0), x)
    with torch._dynamo.config.patch(error_on_recompile=True):
        check(trajectory(network, Uniform(2, 0), x[:1]), trajectory(plain, Uniform(2, 0), x[:1]), 1e-5)
    assert len(programs) == 2


def test_each_depth_takes_the_shape_that_comes_first(x):
    """Guided uncached, both halves in one call of twice the rows; cached, in two."""
    plain = models.load("random", TINY)
    network = SplitUNet(FastUNet(plain))
    programs = compile_passes(network, "eager")
    both = torch.cat([x, x])
    with torch.inference_mode():
        network(both, T.repeat(2))
    trajectory(network, Uniform(2, 0), x)
    assert len(programs) == 3
    check(trajectory(network, Uniform(2, 0), x), trajectory(plain, Uniform(2, 0), x), 1e-5)


def test_the_network_it_was_made_from_stays_uncompiled(x):
    plain = models.load("random", TINY)
    fast = FastUNet(plain)
    programs = compile_passes(fast, "eager")
    trajectory(plain, Uniform(1, 0), x)
    trajectory(SplitUNet(fast), Uniform(1, 0), x)
    assert len(programs) == 0


def test_depths_are_not_limited_in_number(x):
    """torch compiles one function eight times over, and then no more."""
    network = models.load("random", TINY)
    programs = compile_passes(network, "eager")
    with torch._dynamo.config.patch(error_on_recompile=True), torch.inference_mode():
        _, features = network(x, T, taps=[0, 1])
        for taps in ((), (0,), (1,), (1, 0)):
            network(x, T, taps=taps)
        for taps in ((), (0,), (1,), (1, 0), (0, 0)):
            network(x, T, branch=1, feature=features[1], taps=taps)
        network(x, T, branch=0, feature=features[0])
    assert len(programs) == 11


def test_networks_that_differ_in_a_number_are_compiled_one_after_the_other(x):
    for eps in (1e-6, 1e-5, 1e-3):
        plain = models.load("random", replace(TINY, norm_eps=eps))
        network = FastUNet(plain)
        compile_passes(network, "eager")
        check(trajectory(network, Uniform(2, 0), x), trajectory(plain, Uniform(2, 0), x), 1e-5)


@pytest.mark.slow
def test_compiled_for_this_machine(x):
    """With a context, whose keys and values are inputs of the programs; inductor's C++ takes a minute or two."""
    plain = models.load("random", replace(LDM, resolution=8, num_res_blocks=1, attention_levels=[1]))
    network = SplitUNet(FastUNet(plain))
    compile_passes(network)
    context = torch.randn(2, 4, 8, generator=torch.Generator().manual_seed(1))
    check(trajectory(network, Uniform(2, 1), x, cond=context), trajectory(plain, Uniform(2, 1), x, cond=context), 1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_cuda_graphs_replay_with_stored_features_and_kept_outputs(x):
    plain = models.load("random", TINY, device="cuda")
    network = SplitUNet(FastUNet(plain))
    compile_passes(network)
    for _ in range(3):  # warms up, records, replays
        compiled, wanted = (trajectory(each, Uniform(3, 1), x.cuda(), 9) for each in (network, plain))
        check(compiled, wanted, 1e-3)
