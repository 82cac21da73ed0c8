"""Transformed networks compute what the network they were made from computes."""

from __future__ import annotations

import copy
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from test_unet_goldens import ATOL, NETWORKS, TINY, forward, load, table
from torch.utils.flop_counter import FlopCounterMode

import models
from configs import InputError
from models import FastUNet, SplitUNet, UNetConfig, kernels
from models.feature import tensors
from models.memory_format import memory_format
from models.split import PartialSums

DDPM = UNetConfig(resolution=8, channels=32, channel_mult=[1, 2, 2], num_res_blocks=1, attention_levels=[1])
LDM = UNetConfig(
    resolution=8, channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_levels=[0, 1], num_heads=2,
    context_dim=24, timestep_embedding="cos_sin", norm_eps=1e-5, downsample_padding="symmetric",
)  # fmt: skip
GUIDED = UNetConfig(
    resolution=8, channels=32, channel_mult=[1, 2], num_res_blocks=1, attention_levels=[1], head_channels=16,
    num_classes=10, out_channels=6, resample="resblock", scale_shift_norm=True,
    timestep_embedding="cos_sin", norm_eps=1e-5, downsample_padding="symmetric",
)  # fmt: skip
STABLE = replace(LDM, channel_mult=[1, 2, 4], num_res_blocks=2, transformer_depth=2, in_channels=4, out_channels=4)
CHURCHES = replace(LDM, context_dim=None, num_heads=8, resample="resblock", scale_shift_norm=True)
CASES = {
    "ddpm": (DDPM, None),
    "ldm": (LDM, 1),  # tokens of the context: one, of a class
    "stable diffusion": (STABLE, 5),
    "churches": (CHURCHES, None),
    "guided": (GUIDED, None),
    "unconditional guided": (replace(GUIDED, num_classes=None), None),
}
T, LATER = torch.tensor([17, 903]), torch.tensor([0, 999])


def network(config: UNetConfig, dtype=torch.float64) -> models.UNet:
    """Random weights; normalisations too, else nothing would show which channels they belong to."""
    unet = models.load("random", config, dtype=dtype)
    generator = torch.Generator().manual_seed(1)
    for parameter in unet.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.add_(0.05 * noise.to(dtype))
    return unet


def inputs(config: UNetConfig, length: int | None = None, batch: int = 2, seed: int = 0, dtype=torch.float64):
    """(x, cond)"""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.in_channels, 8, 8, generator=generator, dtype=dtype)
    if config.context_dim is not None:
        return x, torch.randn(batch, length or 5, config.context_dim, generator=generator, dtype=dtype)
    return x, torch.arange(batch) if config.num_classes is not None else None


@pytest.fixture(params=CASES, scope="module")
def case(request):
    """(the network, the two transformed, x at an earlier evaluation, x now, cond)"""
    config, length = CASES[request.param]
    plain = network(config)
    fast = FastUNet(plain)
    (before, cond), (x, _) = inputs(config, length), inputs(config, length, seed=1)
    return plain, fast, SplitUNet(fast), before, x, cond


def assert_equal(got, wanted, tolerance=1e-12):
    assert (got - wanted).abs().max() <= tolerance * wanted.abs().max()


def every(unet) -> range:
    return range(unet.num_branches)


@pytest.mark.parametrize("which", [1, 2], ids=["fast", "split"])
def test_a_full_pass_is_the_plain_one_whatever_is_tapped(case, which):
    plain, transformed, x, cond = case[0], case[which], case[4], case[5]
    wanted, _ = plain(x, T, cond)
    for taps in ((), (0,), (1, 3), every(plain)):
        assert_equal(transformed(x, T, cond, taps=taps)[0], wanted)


@pytest.mark.parametrize("which", [1, 2], ids=["fast", "split"])
def test_a_partial_pass_is_the_plain_one_at_every_branch(case, which):
    plain, transformed, before, x, cond = case[0], case[which], *case[3:]
    _, wanted_features = plain(before, T, cond, taps=every(plain))
    _, features = transformed(before, T, cond, taps=every(plain))
    for branch in every(plain):
        wanted, _ = plain(x, LATER, cond, branch=branch, feature=wanted_features[branch])
        got, _ = transformed(x, LATER, cond, branch=branch, feature=features[branch])
        assert_equal(got, wanted)


def test_a_partial_pass_renews_the_parts_of_the_branches_outside_it(case):
    plain, _, split, before, x, cond = case
    _, wanted_features = plain(before, T, cond, taps=every(plain))
    _, features = split(before, T, cond, taps=every(plain))
    for branch in every(plain):
        outside = range(branch)
        wanted, fresh = plain(x, LATER, cond, branch=branch, feature=wanted_features[branch], taps=outside)
        got, parts = split(x, LATER, cond, branch=branch, feature=features[branch], taps=outside)
        assert_equal(got, wanted)
        for tap in outside:
            for made, truth in zip(parts[tap], split.splits[str(tap)].keep(fresh[tap]), strict=True):
                assert made.shape == truth.shape
                assert not made.numel() or torch.allclose(made, truth, rtol=1e-11, atol=1e-11)


def test_the_same_input_twice_gives_the_full_pass_bit_for_bit(case):
    _, _, split, _, x, cond = case
    for branch in every(split):
        full, parts = split(x, T, cond, taps=[branch])
        assert torch.equal(split(x, T, cond, branch=branch, feature=parts[branch])[0], full)


def test_a_split_network_also_takes_the_entering_feature_itself(case):
    plain, _, split, before, x, cond = case
    _, features = plain(before, T, cond, taps=[1])
    wanted, _ = plain(x, T, cond, branch=1, feature=features[1])
    assert_equal(split(x, T, cond, branch=1, feature=features[1])[0], wanted)


def test_the_cases_have_groups_that_straddle_and_branches_without():
    for config in (LDM, DDPM, GUIDED):
        x, cond = inputs(config)
        _, parts = SplitUNet(FastUNet(network(config)))(x, T, cond, taps=range(config.num_branches))
        assert {branch for branch, part in parts.items() if part.border.shape[1]} == {1, 2}


def test_a_feature_without_a_whole_group_is_kept_as_it_is():
    config = replace(DDPM, num_groups=1)
    plain = network(config)
    split = SplitUNet(FastUNet(plain))
    (before, _), (x, _) = inputs(config), inputs(config, seed=1)
    _, features = split(before, T, taps=[1])
    assert torch.is_tensor(features[1])
    wanted, _ = plain(x, T, branch=1, feature=plain(before, T, taps=[1])[1][1])
    assert_equal(split(x, T, branch=1, feature=features[1])[0], wanted)


def test_a_refresh_does_no_work_twice_and_a_partial_pass_less():
    """Multiplications as torch counts them: convolutions, linear layers, attention products."""

    def count(*args, **kwargs) -> int:
        with FlopCounterMode(display=False) as counter:
            kwargs.pop("unet")(*args, **kwargs)
        return counter.get_total_flops() // 2

    plain = network(DDPM)
    split = SplitUNet(FastUNet(plain))
    x, _ = inputs(DDPM, batch=1)
    t = T[:1]
    feature, parts = plain(x, t, taps=[0])[1][0], split(x, t, taps=[0])[1][0]
    embedding = sum(linear.weight.numel() for linear in split.projections.linears)
    embedding += plain.time_in.weight.numel() + plain.time_out.weight.numel()
    composed = (32 - 9 * 3) * 32 * 8 * 8  # 1x1 of 32 channels of the skip, which is 3x3 of the 3 that it was made of
    assert count(x, t, unet=split, taps=[0]) == count(x, t, unet=plain, taps=[0]) - embedding - composed
    ends = [plain.down[0], plain.up[0]]
    blocks = sum(m.embed.weight.numel() for stage in ends for m in stage.modules() if hasattr(m, "embed"))
    embedding = blocks + plain.time_in.weight.numel() + plain.time_out.weight.numel()
    kept = (9 + 1) * 32 * 32 * 8 * 8  # 3x3 and 1x1 convolutions of 32 cached channels to 32
    saved = count(x, t, unet=plain, branch=0, feature=feature) - count(x, t, unet=split, branch=0, feature=parts)
    assert saved == kept + embedding + composed


def test_parameters_are_shared_and_the_plain_network_stays_as_it_was():
    plain = network(LDM)
    x, cond = inputs(LDM)
    wanted, names = plain(x, T, cond)[0], [name for name, _ in plain.named_modules()]
    fast = FastUNet(plain)
    split = SplitUNet(fast)
    split(x, T, cond, taps=[0, 1])
    own = {id(parameter) for parameter in plain.parameters()}
    assert {id(parameter) for parameter in fast.parameters()} == own
    added = sum(p.numel() for p in split.parameters() if id(p) not in own)
    assert added < 0.2 * sum(p.numel() for p in plain.parameters())
    assert [name for name, _ in plain.named_modules()] == names
    assert torch.equal(plain(x, T, cond)[0], wanted)


def test_real_timesteps_and_any_batch(case):
    plain, fast, split, _, x, cond = case
    one = None if cond is None else cond[:1]
    for transformed in (fast, split):
        t = torch.tensor([0.5, 17.25])
        assert_equal(transformed(x, t, cond)[0], plain(x, t, cond)[0])
        assert_equal(transformed(x[:1], T[:1], one)[0], plain(x[:1], T[:1], one)[0])


def test_fast_is_the_network_as_the_scripts_run_it(case):
    plain, _, _, _, x, cond = case
    plain = copy.deepcopy(plain)
    network = models.fast(plain, num_timesteps=1100)
    assert isinstance(network, FastUNet)
    assert {type(module) for module in network.modules()} >= {kernels.Conv2d, kernels.Linear}
    if plain.config.num_classes is None:
        assert len(network.projections.table) == 1100
    assert network.conv_out.weight.is_contiguous(memory_format=torch.channels_last)
    assert {id(parameter) for parameter in network.parameters()} == {id(parameter) for parameter in plain.parameters()}
    assert_equal(network(x, T, cond)[0], plain(x, T, cond)[0])
    split = SplitUNet(network)
    _, features = split(x, T, cond, taps=[1])
    wanted, _ = plain(x, LATER, cond, branch=1, feature=plain(x, T, cond, taps=[1])[1][1])
    assert_equal(split(x, LATER, cond, branch=1, feature=features[1])[0], wanted)


def test_keys_and_values_are_computed_once_for_a_context_and_anew_for_another():
    plain = network(STABLE)
    fast = FastUNet(plain)
    x, cond = inputs(STABLE)
    uncond = torch.zeros_like(cond)
    calls = []
    for module in fast.modules():
        if type(module).__name__ == "BoundAttention":
            module.attn.to_k.register_forward_hook(lambda *call: calls.append(1))
    sites = len(fast.contexts.attentions)
    for _ in range(3):  # two in turn, as guidance in two calls asks
        for context in (cond, uncond):
            assert_equal(fast(x, T, context)[0], plain(x, T, context)[0])
    assert len(calls) == 2 * sites
    fast(x, T, cond.clone())
    assert len(calls) == 3 * sites


def test_a_context_that_was_changed_in_place_is_noticed():
    plain = network(LDM)
    fast = FastUNet(plain)
    x, cond = inputs(LDM)
    fast(x, T, cond)
    cond.mul_(2)
    assert_equal(fast(x, T, cond)[0], plain(x, T, cond)[0])


def test_a_pass_can_stop_between_branches_for_some_rows(case):
    """As the adaptive denoiser runs it: rows of the embedding and of the context."""
    plain, fast, split, _, x, cond = case
    wanted, _ = plain(x, T, cond)
    rows = torch.tensor([1])
    for transformed in (fast, split):
        emb, context = transformed.embed(T, cond)
        skips = transformed.descend(x[rows], emb[rows], None if context is None else context[rows], 0, 2)
        inner = transformed.descend(skips[-1], emb[rows], None if context is None else context[rows], 2,
                                    transformed.num_branches)  # fmt: skip
        of_row = emb[rows], None if context is None else context[rows]
        h = transformed.middle(inner[-1], *of_row)
        h, _ = transformed.ascend(h, inner, *of_row, stop=2)
        h, _ = transformed.ascend(h, skips, *of_row)
        assert_equal(transformed.head(h), wanted[rows])


@pytest.mark.parametrize("name", CASES)
def test_in_single_precision_they_agree_to_rounding(name):
    config, length = CASES[name]
    plain = network(config, torch.float32)
    split = SplitUNet(FastUNet(plain))
    before, cond = inputs(config, length, dtype=torch.float32)
    x, _ = inputs(config, length, seed=1, dtype=torch.float32)
    _, features = plain(before, T, cond, taps=every(plain))
    _, parts = split(before, T, cond, taps=every(plain))
    for branch in every(plain):
        wanted, _ = plain(x, LATER, cond, branch=branch, feature=features[branch])
        assert_equal(split(x, LATER, cond, branch=branch, feature=parts[branch])[0], wanted, 1.2e-5)


def test_what_is_kept_has_the_shapes_it_says():
    config = replace(LDM, channels=64, channel_mult=[1, 3])
    split = SplitUNet(FastUNet(network(config)))
    x, cond = inputs(config)
    _, tapped = split(x, T, cond, taps=[0, 1])
    assert isinstance(tapped[1], PartialSums)
    # 192 channels enter beside 64 of the skip: 32 groups of 8, all 24 of the first whole
    assert [part.shape[1] for part in tensors(tapped[1])] == [64, 64, 0]
    assert [part.shape[1] for part in tensors(tapped[0])] == [64, 64, 0]


def test_impossible_passes_are_refused_before_anything_is_split():
    split = SplitUNet(FastUNet(network(DDPM)))
    x, _ = inputs(DDPM)
    with pytest.raises(InputError, match="branch 6 cannot be tapped"):
        split(x, T, taps=[6])
    with pytest.raises(InputError, match="unconditional and takes no cond"):
        split(x, T, torch.tensor([1, 2]))
    assert not len(split.splits)


# Against the references


@pytest.mark.parametrize("name", [name for name in NETWORKS if isinstance(name, str)])
def test_full_passes_equal_the_references(golden, tmp_path, name):
    reference = golden(name)
    split = SplitUNet(FastUNet(load(reference, tmp_path)))
    reference.check("out", forward(split, reference), ATOL.get(name, TINY))


@torch.no_grad()
def test_every_branch_of_the_released_ddpm_code(golden, tmp_path):
    reference = golden("deepcache_tiny32x3")
    split = SplitUNet(FastUNet(load(reference, tmp_path)))
    out1, parts = split(reference.tensor("x1"), table(reference, "t1"), taps=every(split))
    reference.check("out1_full", out1, TINY)
    for released in reference["branches_ok"]:
        branch = int(released) + 1
        out2, _ = split(reference.tensor("x2"), table(reference, "t2"), branch=branch, feature=parts[branch])
        reference.check(f"out2_partial_b{released}", out2, TINY)


@torch.no_grad()
def test_the_released_latent_diffusion_cache(golden, tmp_path):
    reference = golden("deepcache_ldm_tiny_class")
    split = SplitUNet(FastUNet(load(reference, tmp_path)))
    context = reference.tensor("context")
    _, parts = split(reference.tensor("x1"), table(reference, "t1"), context, taps=[0])
    out2, _ = split(reference.tensor("x2"), table(reference, "t2"), context, branch=0, feature=parts[0])
    reference.check("out2_partial", out2, TINY)


def test_a_fast_network_comes_back_as_it_is_and_is_not_saved():
    network = models.fast(models.load("random", DDPM))
    assert models.fast(network) is network
    with pytest.raises(InputError, match="a FastUNet computes what its U-Net does, but is not laid out as one"):
        models.save(network, "nowhere.safetensors")


def test_maps_are_channels_last_but_for_fp32_on_a_gpu():
    def of(dtype: torch.dtype, is_cuda: bool) -> torch.memory_format:
        weight = SimpleNamespace(dtype=dtype, is_cuda=is_cuda)
        return memory_format(SimpleNamespace(parameters=lambda: iter([weight])))

    assert of(torch.float32, True) is torch.contiguous_format
    assert of(torch.float16, True) is of(torch.float32, False) is torch.channels_last
