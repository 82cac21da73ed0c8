"""A partial pass around any branch computes what the full pass computes there, bit for bit."""

from __future__ import annotations

import pytest
import torch

import models
from configs import InputError
from models import UNetConfig

DDPM = UNetConfig(resolution=16, channels=32, channel_mult=[1, 2, 2], attention_levels=[1])
LDM = UNetConfig(
    resolution=16, channels=32, channel_mult=[1, 2], attention_levels=[0, 1], num_heads=2, context_dim=24,
    timestep_embedding="cos_sin", norm_eps=1e-5, downsample_padding="symmetric",
)  # fmt: skip
GUIDED = UNetConfig(
    resolution=16, channels=32, channel_mult=[1, 1, 2], num_res_blocks=1, attention_levels=[1, 2], head_channels=16,
    num_classes=10, out_channels=6, resample="resblock", scale_shift_norm=True,
    timestep_embedding="cos_sin", norm_eps=1e-5, downsample_padding="symmetric",
)  # fmt: skip
CONFIGS = {"ddpm": DDPM, "ldm": LDM, "guided": GUIDED}


@pytest.fixture(params=CONFIGS, scope="module")
def case(request):
    """A network with random weights and one input of it: (network, (x, t, cond))."""
    config = CONFIGS[request.param]
    generator = torch.Generator().manual_seed(1)
    network = models.load("random", config)
    x = torch.randn(2, 3, 16, 16, generator=generator)
    cond = None
    if config.context_dim is not None:
        cond = torch.randn(2, 5, config.context_dim, generator=generator)
    elif config.num_classes is not None:
        cond = torch.tensor([3, 7])
    return network, (x, torch.tensor([17, 903]), cond)


def test_at_every_branch_the_partial_pass_equals_the_full_pass(case):
    network, inputs = case
    full, features = network(*inputs, taps=range(network.num_branches))
    for branch in range(network.num_branches):
        partial, _ = network(*inputs, branch=branch, feature=features[branch])
        assert torch.equal(partial, full), f"branch {branch}"


def test_a_partial_pass_taps_what_the_full_pass_taps(case):
    network, inputs = case
    _, features = network(*inputs, taps=range(network.num_branches))
    for branch in range(network.num_branches):
        _, tapped = network(*inputs, branch=branch, feature=features[branch], taps=range(branch + 1))
        assert sorted(tapped) == list(range(branch + 1))
        assert all(torch.equal(tapped[i], features[i]) for i in tapped), f"branch {branch}"


def test_the_feature_decides_what_a_partial_pass_computes(case):
    network, inputs = case
    full, features = network(*inputs, taps=range(network.num_branches))
    for branch in range(network.num_branches):
        partial, tapped = network(*inputs, branch=branch, feature=features[branch] + 1, taps=range(branch + 1))
        assert not torch.equal(partial, full), f"branch {branch}"
        assert not any(torch.equal(tapped[i], features[i]) for i in tapped), f"branch {branch}"


def test_taps_do_not_change_the_result_and_none_come_unasked(case):
    network, inputs = case
    untapped, nothing = network(*inputs)
    tapped, features = network(*inputs, taps=[2, 0])
    assert nothing == {}
    assert sorted(features) == [0, 2]
    assert torch.equal(tapped, untapped)


def test_a_pass_that_stops_at_any_branch_and_goes_on_is_the_full_pass(case):
    network, (x, t, cond) = case
    full, features = network(x, t, cond, taps=range(network.num_branches))
    emb, context = network.embed(t, cond)
    for branch in range(network.num_branches):
        outer = network.descend(x, emb, context, 0, branch + 1)
        inner = network.descend(outer[-1], emb, context, branch + 1, network.num_branches)
        deepest = network.middle([*outer, *inner][-1], emb, context)
        entering, _ = network.ascend(deepest, inner, emb, context, stop=branch + 1)
        h, _ = network.ascend(entering, outer, emb, context)
        assert torch.equal(entering, features[branch]), f"branch {branch}"
        assert torch.equal(network.head(h), full), f"branch {branch}"


def test_the_branch_table_states_the_channels_that_flow(case):
    network, inputs = case
    skips = {}
    for index, stage in enumerate(network.down):
        stage.register_forward_hook(lambda module, args, out, index=index: skips.update({index: out}))
    _, features = network(*inputs, taps=range(network.num_branches))
    for module in network.down:
        module._forward_hooks.clear()
    for index in range(network.num_branches):
        branch = network.config.branch(index)
        side = 16 // 2**branch.level
        assert skips[index].shape == (2, branch.skip_channels, side, side)
        assert features[index].shape == (2, branch.entering_channels, side, side)


@pytest.mark.parametrize(
    ("name", "branches"),
    [
        ({"channel_mult": [1, 2, 2, 2], "resolution": 32}, 12),  # CIFAR-10
        ({"channel_mult": [1, 1, 2, 2, 4, 4], "resolution": 256}, 18),  # LSUN
        ({"channel_mult": [1, 2, 3, 4], "channels": 192, "num_res_blocks": 3, "resolution": 64}, 16),  # ADM-64
        ({"channel_mult": [1, 2, 3, 5], "channels": 192, "resolution": 64}, 12),  # LDM-4-G
        ({"channel_mult": [1, 2, 4, 4], "channels": 320, "resolution": 64}, 12),  # Stable Diffusion v1
    ],
)
def test_number_of_branches(name, branches):
    assert UNetConfig(**{"channels": 128, **name}).num_branches == branches


def test_branches_of_the_cifar_network():
    config = UNetConfig(resolution=32, channels=128, channel_mult=[1, 2, 2, 2], attention_levels=[1])
    table = [tuple(config.branch(i)) for i in range(config.num_branches)]
    assert table == [
        # level, block, skip, entering
        (0, 0, 128, 128), (0, 1, 128, 128), (0, 2, 128, 256),
        (1, 0, 128, 256), (1, 1, 256, 256), (1, 2, 256, 256),
        (2, 0, 256, 256), (2, 1, 256, 256), (2, 2, 256, 256),
        (3, 0, 256, 256), (3, 1, 256, 256), (3, 2, 256, 256),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"branch": 9, "feature": 1}, "branch 9 does not exist; this network has branches 0 (outermost) to 8"),
        ({"branch": -1, "feature": 1}, "branch -1 does not exist"),
        ({"branch": 2}, "a partial pass takes both `branch` and `feature`, a full pass neither"),
        ({"feature": 1}, "a partial pass takes both `branch` and `feature`, a full pass neither"),
        ({"taps": [9]}, "branch 9 cannot be tapped in this pass; it runs branches 0 to 8"),
        (
            {"branch": 2, "feature": 1, "taps": [0, 3]},
            "branch 3 cannot be tapped in this pass; it runs branches 0 to 2",
        ),
    ],
)
def test_an_impossible_pass_is_refused_in_one_sentence(arguments, sentence):
    network = models.load("random", DDPM)
    if "feature" in arguments:
        arguments = arguments | {"feature": torch.zeros(1, 32, 16, 16)}
    with pytest.raises(InputError) as error:
        network(torch.zeros(1, 3, 16, 16), torch.tensor([1]), **arguments)
    assert sentence in str(error.value)


@pytest.mark.parametrize("size", [(15, 16), (16, 18)])
def test_sides_that_the_levels_cannot_halve_are_refused_in_one_sentence(size):
    plain = models.load("random", DDPM)
    for network in (plain, models.FastUNet(plain), models.SplitUNet(models.FastUNet(plain))):
        with pytest.raises(InputError) as error:
            network(torch.zeros(1, 3, *size), torch.tensor([1]))
        height, width = size
        assert str(error.value) == (
            f"x of {height}x{width} does not fit this network; both sides must be multiples of 4"
        )


@pytest.mark.parametrize(
    ("config", "cond", "sentence"),
    [
        (DDPM, torch.zeros(1, dtype=torch.long), "this network is unconditional and takes no cond"),
        (GUIDED, None, "this network needs class labels (B,) in 0..9 as cond"),
        (GUIDED, torch.zeros(1, 5, 24), "this network needs class labels (B,) in 0..9 as cond"),
        (LDM, None, "this network needs a cross-attention context (B, L, 24) as cond"),
        (LDM, torch.zeros(1, 5, 32), "this network needs a cross-attention context (B, L, 24) as cond"),
        (LDM, torch.zeros(1, 5, 16), "this network needs a cross-attention context (B, L, 24) as cond"),
        (LDM, torch.zeros(1, 24), "this network needs a cross-attention context (B, L, 24) as cond"),
        (LDM, torch.zeros(1, 5, 24, 24), "this network needs a cross-attention context (B, L, 24) as cond"),
    ],
)
def test_a_cond_of_another_kind_is_refused_in_one_sentence(config, cond, sentence):
    with pytest.raises(InputError) as error:
        models.load("random", config)(torch.zeros(1, 3, 16, 16), torch.tensor([1]), cond)
    assert str(error.value) == sentence
