"""diffusers' networks in memory become ours, strictly, with the tensors that they are."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor, AttnProcessor2_0
from latent_files import randn
from public_names import DDPM_OPTIONS, OPENAI_OPTIONS, conditional_unet, unet
from torch import nn

import models
from configs import InputError
from models import UNetConfig

T = torch.tensor([3, 951])


def pixel_unet():
    return unet([32, 64], [1], sample_size=16, **DDPM_OPTIONS), {}


def pixel_unet_with_heads():
    return unet([32, 64], [1], sample_size=16, attention_head_dim=16, **OPENAI_OPTIONS), {}


def latent_unet():
    network = conditional_unet([32, 64], [0, 1], in_channels=4, out_channels=4, sample_size=(16, 16),
                               cross_attention_dim=24, attention_head_dim=4, **OPENAI_OPTIONS)  # fmt: skip
    return network, {"encoder_hidden_states": randn(2, 5, 24)}


@pytest.mark.parametrize("build", [pixel_unet, pixel_unet_with_heads, latent_unet])
def test_it_computes_what_the_module_does(build):
    reference, cond = build()
    network = models.from_diffusers(reference)
    x = randn(2, reference.config.in_channels, 16, 16)
    expected = reference(x, T, **cond).sample
    torch.testing.assert_close(network(x, T, *cond.values())[0], expected, atol=1e-5, rtol=0)
    assert network.provenance.source == "diffusers module in memory"
    assert network.provenance.layout == f"diffusers {type(reference).__name__}"
    assert network.provenance.file is None
    assert network.provenance.sha256 == network.provenance.published == ""
    assert network.config.resolution == 16


def test_precision_and_device_are_the_modules():
    network = models.from_diffusers(pixel_unet()[0].to(torch.float64))
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    assert {parameter.device.type for parameter in network.parameters()} == {"cpu"}


def test_tensors_are_shared_and_the_module_stays_as_it_was():
    reference, _ = latent_unet()
    reference.train().requires_grad_(True)
    network = models.from_diffusers(reference)
    theirs = {parameter.data_ptr() for parameter in reference.parameters()}
    assert {parameter.data_ptr() for parameter in network.parameters()} == theirs
    assert reference.training
    assert all(parameter.requires_grad for parameter in reference.parameters())
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())

    plain, _ = pixel_unet()
    theirs = {parameter.data_ptr() for parameter in plain.parameters()}
    copied = {name for name, parameter in models.from_diffusers(plain).named_parameters()
              if parameter.data_ptr() not in theirs}  # fmt: skip
    assert copied
    assert all(".qkv." in name for name in copied)


def test_what_was_trained_since_it_was_loaded_is_seen():
    reference, _ = pixel_unet()
    tuned = copy.deepcopy(reference)
    nn.init.constant_(tuned.conv_out.bias, 2.0)
    assert (models.from_diffusers(tuned).conv_out.bias == 2).all()
    assert models.from_diffusers(reference).config == UNetConfig(16, 32, [1, 2], attention_levels=[1])


def test_another_family_is_refused_as_from_a_file():
    guided = unet([32, 64], [1], resblocks=True, attention_head_dim=16, **OPENAI_OPTIONS)
    with pytest.raises(InputError, match=r"diffusers module in memory cannot be loaded: .*resnet_time_scale_shift"):
        models.from_diffusers(guided)


@pytest.mark.parametrize("other", [nn.Linear(2, 2), SimpleNamespace(unet=None), models.random(UNetConfig(8, 32, [1]))])
def test_what_is_no_network_of_diffusers_is_refused(other):
    with pytest.raises(InputError, match=f"takes a UNet2DModel or .* of diffusers, not a {type(other).__name__}$"):
        models.from_diffusers(other)


def test_lora_layers_that_are_not_fused_are_refused():
    """They wrap a layer, as peft's do, and would be left out."""
    reference, _ = pixel_unet()
    layer = reference.conv_in
    reference.conv_in = nn.Module()
    reference.conv_in.base_layer, reference.conv_in.lora_A = layer, nn.ModuleDict({"default": nn.Conv2d(3, 4, 3)})
    with pytest.raises(InputError, match=r"has LoRA layers beside its weights; fuse them first: pipe.fuse_lora\(\)"):
        models.from_diffusers(reference)


def test_the_fast_network_is_made_of_it_in_one_line():
    reference, cond = latent_unet()
    network = models.fast(models.from_diffusers(reference))
    x = randn(2, 4, 16, 16)
    expected = reference(x, T, **cond).sample
    torch.testing.assert_close(network(x, T, *cond.values())[0], expected, atol=2e-5, rtol=0)


def test_a_module_that_computes_otherwise_than_its_class_is_refused():
    """FreeU and attention processors are no weights: they would be lost without a word."""

    class Mine(AttnProcessor2_0):
        pass

    reference, _ = latent_unet()
    reference.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    with pytest.raises(InputError, match=r"has FreeU enabled, which would be lost; call pipe\.disable_freeu\(\) first"):
        models.from_diffusers(reference)
    reference.disable_freeu()
    reference.set_attn_processor(AttnProcessor())
    models.from_diffusers(reference)
    reference.set_attn_processor(Mine())
    with pytest.raises(InputError, match=r"attention processors of its own \(Mine\), which would be lost"):
        models.from_diffusers(reference)
