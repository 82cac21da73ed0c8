"""Optimised networks compute what the plain ones do: every family, every branch, any batch, on a CPU."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from test_partial_passes import DDPM, GUIDED, LDM
from torch import nn
from torch.nn import functional as F

import models
from models import UNetConfig, kernels, onednn, processor, shifted, tiled, winograd
from models.attention import FeedForward
from models.fast_unet import FastUNet, SplitUNet
from models.kernels import optimise

# As wide as it takes for Winograd's algorithm and for tiles of attention; published networks are wider.
WIDE = UNetConfig(
    resolution=32, channels=64, channel_mult=[1, 2], num_res_blocks=1, attention_levels=[1], dropout=0.1,
)  # fmt: skip
TEXT = UNetConfig(
    resolution=16, channels=64, channel_mult=[1, 2], in_channels=4, out_channels=4, num_res_blocks=1, num_heads=1,
    attention_levels=[0, 1], context_dim=24, timestep_embedding="cos_sin", norm_eps=1e-5,
    downsample_padding="symmetric",
)  # fmt: skip
CONFIGS = {"ddpm": DDPM, "ldm": LDM, "guided": GUIDED, "wide": WIDE, "text": TEXT}

needs_packing = pytest.mark.skipif(
    onednn.unpackable(torch.float32) is not None, reason=str(onednn.unpackable(torch.float32))
)


@pytest.fixture(autouse=True)
def every_algorithm(monkeypatch):
    """Every algorithm is taken, whoever made the processor that the tests run on: on AMD's most of them pay."""
    monkeypatch.setattr(processor, "is_amd", lambda: True)
    monkeypatch.setattr(processor, "has_avx512", lambda: True)


def inputs(config, batch, dtype=torch.float32, size=None):
    generator = torch.Generator().manual_seed(batch)
    height, width = size or (config.resolution, config.resolution)
    cond = None
    if config.context_dim is not None:
        cond = torch.randn(batch, 5, config.context_dim, generator=generator).to(dtype)
    elif config.num_classes is not None:
        cond = torch.arange(batch) % config.num_classes
    x = torch.randn(batch, config.in_channels, height, width, generator=generator).to(dtype)
    return x, torch.linspace(999, 17, batch).long(), cond


def error(result, expected):
    return float((result.double() - expected.double()).abs().max() / expected.double().abs().max())


@pytest.fixture(params=CONFIGS, scope="module")
def config(request):
    return CONFIGS[request.param]


@pytest.fixture(scope="module")
def plain(config):
    return models.random(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_all_passes_equal_the_plain_networks(config, plain, batch):
    network, given = optimise(plain), inputs(config, batch)
    expected, features = plain(*given, taps=range(plain.num_branches))
    full, tapped = network(*given, taps=range(plain.num_branches))
    assert error(full, expected) < 1e-5
    for branch in range(plain.num_branches):
        assert error(tapped[branch], features[branch]) < 1e-5, f"tap {branch}"
        partial, _ = network(*given, branch=branch, feature=features[branch])
        assert error(partial, expected) < 1e-5, f"branch {branch}"


@torch.no_grad()
def test_split_networks_are_optimised_slices_and_all(config, plain):
    network, given = SplitUNet(optimise(FastUNet(plain))), inputs(config, 3)
    expected = plain(*given)[0]
    full, tapped = network(*given, taps=range(plain.num_branches))
    assert error(full, expected) < 1e-5
    for branch in range(plain.num_branches):
        partial, _ = network(*given, branch=branch, feature=tapped[branch])
        assert error(partial, expected) < 1e-5, f"branch {branch}"
    assert not any(type(module) in (nn.Conv2d, nn.GroupNorm) for module in network.modules())


@torch.no_grad()
@pytest.mark.parametrize("size", [(24, 40), (16, 8), (8, 64)])
def test_maps_of_any_size_one_after_the_other(config, plain, size):
    network = optimise(plain)
    for given in (inputs(config, 2), inputs(config, 2, size=size), inputs(config, 2)):
        assert error(network(*given)[0], plain(*given)[0]) < 1e-5


@torch.no_grad()
def test_in_float64_the_layers_are_the_plain_ones(config, plain):
    network = copy.deepcopy(plain).double()
    given = inputs(config, 2, torch.float64)
    assert torch.equal(optimise(network)(*given)[0], network(*given)[0])


@torch.no_grad()
def test_in_bfloat16_the_error_is_that_of_the_precision(config, plain):
    expected = plain(*inputs(config, 2))[0]
    network = copy.deepcopy(plain).bfloat16()
    rough = inputs(config, 2, torch.bfloat16)
    result = optimise(network)(*rough)[0]
    assert result.dtype == torch.bfloat16
    assert error(result, expected) < 0.05
    assert error(result, expected) < 1.5 * error(network(*rough)[0], expected)


def test_nothing_of_the_plain_network_changes_and_the_copy_shares_its_parameters(config, plain):
    before = {name: value.clone() for name, value in plain.state_dict().items()}
    network = optimise(plain)
    with torch.no_grad():
        network(*inputs(config, 1))
    assert list(network.state_dict()) == list(before)
    assert all(torch.equal(value, before[name]) for name, value in plain.state_dict().items())
    mine, theirs = dict(network.named_parameters()), dict(plain.named_parameters())
    assert all(mine[name] is theirs[name] for name in theirs)
    assert type(plain.conv_out) is nn.Conv2d
    assert type(network.conv_out) is kernels.Conv2d
    assert network.config == plain.config
    split = models.SplitUNet(models.FastUNet(plain))  # whose list of splits is still empty
    assert optimise(split).splits is not split.splits


def test_where_gradients_are_wanted_they_flow(config, plain):
    x, t, cond = inputs(config, 1)
    gradients = []
    for network in (plain, optimise(plain)):
        plain.zero_grad()
        network(x, t, cond)[0].square().sum().backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in network.named_parameters()})
    plain.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    assert all(torch.equal(gradients[0][name], gradients[1][name]) for name in gradients[0])


@torch.no_grad()
def test_changed_parameters_are_prepared_again(config):
    network = models.random(config).eval()
    fast, given = optimise(network), inputs(config, 2)
    first = fast(*given)[0]
    network.load_state_dict({name: value * 1.01 for name, value in network.state_dict().items()})
    assert error(fast(*given)[0], network(*given)[0]) < 1e-5
    assert not torch.equal(fast(*given)[0], first)


@torch.no_grad()
def test_without_onednn_the_layers_are_the_plain_ones(config, plain, monkeypatch):
    monkeypatch.setattr(onednn, "unpackable", lambda dtype: "not on this machine")
    given = inputs(config, 2)
    assert torch.equal(optimise(plain)(*given)[0], plain(*given)[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", [{"dilation": 2}, {"groups": 2}, {"padding_mode": "circular"}, {"padding": "same"}])
def test_convolutions_that_no_network_here_has_are_the_plain_ones(kind):
    layer, x = nn.Conv2d(8, 8, 3, **{"padding": 1} | kind), torch.randn(2, 8, 16, 16)
    assert torch.equal(optimise(layer)(x), layer(x))


def test_why_a_type_cannot_be_packed_is_said():
    assert onednn.unpackable(torch.float64) == "oneDNN has no layers of torch.float64"


@torch.no_grad()
@needs_packing
def test_a_layer_that_is_used_twice_stays_one():
    layer = nn.Conv2d(3, 4, 1)
    both = optimise(nn.Sequential(layer, nn.Conv2d(4, 3, 1), layer))
    assert both[0] is both[2]
    both(torch.zeros(1, 3, 8, 8))
    assert len(both[0].prepared) == 1


@torch.no_grad()
@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("batch", "channels", "outputs", "height", "width"),
    [(1, 64, 64, 16, 16), (3, 64, 128, 4, 30), (2, 128, 64, 20, 7), (1, 64, 64, 128, 64), (2, 192, 192, 24, 16)],
)
def test_winograds_algorithm_is_as_exact_as_a_direct_convolution(batch, channels, outputs, height, width, bias):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, channels, height, width, generator=generator) + 1
    weight = torch.randn(outputs, channels, 3, 3, generator=generator)
    offset = torch.randn(outputs, generator=generator) if bias else None
    expected = F.conv2d(x.double(), weight.double(), None if offset is None else offset.double(), padding=1)
    x = x.to(memory_format=torch.channels_last)
    result = winograd.convolution(x, winograd.transform(weight, offset, (height, width)))
    direct = onednn.convolve(x, onednn.pack_conv(weight, (height, width), (1, 1)), offset, (1, 1))
    assert error(result, expected) < 1e-5
    assert error(result, expected) < 6 * error(direct, expected)


@torch.no_grad()
@needs_packing
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("batch", "outputs", "height", "width"), [(1, 3, 16, 16), (3, 4, 7, 30), (2, 1, 1, 5)])
def test_convolutions_by_shifted_maps_are_as_exact_as_direct_ones(batch, outputs, height, width, bias):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 64, height, width, generator=generator) + 1
    weight = torch.randn(outputs, 64, 3, 3, generator=generator)
    offset = torch.randn(outputs, generator=generator) if bias else None
    expected = F.conv2d(x.double(), weight.double(), None if offset is None else offset.double(), padding=1)
    result = shifted.convolution(x.to(memory_format=torch.channels_last), shifted.by_tap(weight, offset))
    assert result.shape == expected.shape
    assert error(result, expected) < 2e-6


@pytest.mark.parametrize("maker", ["AMD", "Intel"])
def test_winograds_algorithm_is_taken_where_it_pays(maker, monkeypatch):
    monkeypatch.setattr(processor, "is_amd", lambda: maker == "AMD")
    wide, narrow = torch.zeros(256, 256, 3, 3), torch.zeros(3, 64, 3, 3)
    assert winograd.pays(torch.zeros(1, 256, 16, 16), wide)
    assert not winograd.pays(torch.zeros(1, 256, 8, 8), wide)
    assert winograd.pays(torch.zeros(4, 256, 8, 8), wide)
    assert not winograd.pays(torch.zeros(4, 256, 18, 16), wide)
    assert not winograd.pays(torch.zeros(4, 256, 16, 16, dtype=torch.bfloat16), wide.bfloat16())
    assert not winograd.pays(torch.zeros(4, 64, 16, 16), narrow)
    assert winograd.pays(torch.zeros(1, 128, 16, 16), torch.zeros(128, 128, 3, 3)) == (maker == "AMD")


def test_on_amds_processors_winograds_algorithm_pays_from_64_channels_on(monkeypatch):
    weight = torch.zeros(64, 64, 3, 3)
    assert winograd.pays(torch.zeros(1, 64, 16, 16), weight)
    assert not winograd.pays(torch.zeros(1, 64, 8, 8), weight)
    assert winograd.pays(torch.zeros(4, 64, 8, 8), weight)
    assert not winograd.pays(torch.zeros(4, 64, 18, 16), weight)
    assert not winograd.pays(torch.zeros(4, 64, 16, 16, dtype=torch.bfloat16), weight.bfloat16())
    monkeypatch.setattr(processor, "is_amd", lambda: False)
    assert not winograd.pays(torch.zeros(32, 64, 16, 16), weight)


def test_attention_is_tiled_where_it_pays(monkeypatch):
    def pays(queries, keys, width):
        return tiled.pays(torch.zeros(2, 8, queries, width), torch.zeros(2, 8, keys, width))

    assert pays(256, 256, 64)
    assert not pays(256, 256, 32)
    assert pays(1024, 77, 40)  # to a prompt
    assert not pays(256, 77, 80)
    assert not pays(1024, 16, 512)  # too few keys
    assert not pays(64, 77, 512)  # too few queries
    monkeypatch.setattr(processor, "has_avx512", lambda: False)
    assert not pays(1024, 1024, 64)
    monkeypatch.setattr(processor, "has_avx512", lambda: True)
    monkeypatch.setattr(processor, "is_amd", lambda: False)
    assert not pays(1024, 1024, 64)


@pytest.mark.parametrize(("maker", "amd"), [("AuthenticAMD", True), ("GenuineIntel", False)])
def test_the_processors_maker(maker, amd, monkeypatch, tmp_path):
    monkeypatch.undo()
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text(f"processor\t: 0\nvendor_id\t: {maker}\nmodel name\t: Some 9: core\n")
    monkeypatch.setattr(processor, "CPUINFO", cpuinfo)
    assert processor.is_amd.__wrapped__() == amd
    assert processor.field("model name") == "Some 9: core"
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "none")
    monkeypatch.setattr("platform.processor", lambda: f"AMD64 Family 26, {maker}")
    assert processor.is_amd.__wrapped__() == amd


@torch.no_grad()
@needs_packing
@pytest.mark.parametrize(
    ("conv", "prepare"),
    [
        (nn.Conv2d(64, 48, 1), kernels._product),
        (nn.Conv2d(64, 64, 3, padding=1), kernels._winograd),
        (nn.Conv2d(64, 3, 3, padding=1), kernels._shifted),
        (nn.Conv2d(3, 64, 3, padding=1), kernels._direct),
        (nn.Conv2d(64, 64, 3, padding=1, stride=2), kernels._direct),
        (nn.Conv2d(64, 3, 3), kernels._direct),
        (nn.Conv2d(64, 3, 1, stride=2), kernels._direct),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_every_convolution_takes_its_algorithm(conv, prepare):
    x, network = torch.randn(4, conv.in_channels, 16, 16, generator=torch.Generator().manual_seed(0)), optimise(conv)
    assert error(network(x), conv.double()(x.double())) < 1e-5
    assert [made for made, _ in network.prepared] == [prepare]


@torch.no_grad()
@pytest.mark.parametrize(
    "attend", [kernels.FastAttend(), pytest.param(tiled.attention, marks=needs_packing)], ids=["fast", "tiled"]
)
@pytest.mark.parametrize(
    "shape",
    [(2, 1, 256, 256, 64), (1, 3, 300, 260, 40), (2, 2, 16, 400, 33), (1, 2, 64, 77, 40), (1, 1, 1030, 1024, 8)],
)
def test_attention_by_tiles(shape, attend):
    batch, heads, queries, keys, width = shape
    generator = torch.Generator().manual_seed(0)
    # Heads side by side, as networks hold them: strided.
    q, k, v = (
        torch.randn(batch, length, heads, width, generator=generator).transpose(1, 2)
        for length in (queries, keys, keys)
    )
    expected = F.scaled_dot_product_attention(q.double(), k.double(), v.double())
    assert error(attend(q, k, v), expected) < 1e-5


@torch.no_grad()
@needs_packing
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_gated_feed_forward_ends_one_product_in_its_gelu(dtype):
    torch.manual_seed(0)
    layer = FeedForward(40)
    nn.init.normal_(layer.proj_in.bias)
    x = 2 * torch.randn(2, 9, 40)
    expected = copy.deepcopy(layer).double()(x.double())
    network = optimise(layer.to(dtype))
    assert error(network(x.to(dtype)), expected) < {torch.float32: 1e-6, torch.bfloat16: 1e-2}[dtype]
    assert [made for made, _ in network.proj_in.prepared] == [kernels._gated]


@torch.no_grad()
@pytest.mark.parametrize("size", [4, 32])
@pytest.mark.parametrize(("groups", "channels"), [(8, 64), (4, 96), (3, 96)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_normalisation_in_every_precision(dtype, groups, channels, size):
    norm = nn.GroupNorm(groups, channels)
    nn.init.normal_(norm.weight)
    x = (torch.randn(2, channels, size, size, generator=torch.Generator().manual_seed(0)) * 3 + 1).to(dtype)
    x = x.to(memory_format=torch.channels_last)
    expected = copy.deepcopy(norm).double()(x.double())
    result = optimise(norm.to(dtype))(x)
    assert result.dtype == dtype
    assert error(result, expected) < {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}[dtype]


def test_a_process_keeps_the_memory_it_freed():
    program = (
        "import resource, sys, torch\n"
        "from models.memory import keep_freed_memory\n"
        "if not keep_freed_memory(): sys.exit(7)\n"
        "faults = []\n"
        "for _ in range(8):\n"
        "    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "    torch.zeros(64 << 20, dtype=torch.uint8)\n"
        "    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)\n"
        "print(min(faults))\n"  # once or twice, a small block may lie where the large one lay
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    if done.returncode == 7:
        pytest.skip("this C library is not glibc")
    assert int(done.stdout) < 1000, done.stderr  # of 16384 pages
