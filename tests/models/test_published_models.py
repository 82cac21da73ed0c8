"""The configurations of published models: their sizes, and that their files are recognised."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import models
from experiments.model import model_config
from models.known import read_config, settle
from models.layouts.ddpm import PESSER
from models.layouts.diffusers_conditional import DIFFUSERS_CONDITIONAL
from models.layouts.openai import OPENAI
from models.layouts.translate import their_keys

# name: parameters and tensors of the U-Net, parameters of the first stage
SIZES = {
    "ldm_celebahq256": (274_056_163, 368, 55_322_782),
    "ldm_ffhq256": (274_056_163, 368, 55_322_782),
    "ldm_beds256": (274_056_163, 368, 55_322_782),
    "ldm_churches256": (294_966_916, 520, 83_653_863),
    "ldm_cin256_f8": (394_984_196, 626, 67_717_295),
    "ldm_cin256_v2": (400_920_579, 688, 55_322_782),
    "sd_v1": (859_520_964, 686, 83_653_863),
    "adm_lsun256": (552_814_086, 566, None),
    "adm_imagenet64": (295_904_454, 541, None),
    "adm_imagenet128": (421_529_606, 493, None),
    "adm_imagenet256": (553_838_086, 567, None),
    "adm_imagenet256_uncond": (552_814_086, 566, None),
    "adm_imagenet512": (558_997_638, 645, None),
}


@pytest.mark.parametrize("name", SIZES)
def test_networks_have_the_published_size(name):
    parameters, tensors, first_stage_parameters = SIZES[name]
    config = model_config(name)
    with torch.device("meta"):
        unet = models.UNet(config.network)
        first_stage = config.first_stage and models.first_stage(config.first_stage)
    assert sum(parameter.numel() for parameter in unet.parameters()) == parameters
    assert len(unet.state_dict()) == tensors
    if first_stage_parameters is not None:
        assert sum(parameter.numel() for parameter in first_stage.parameters()) == first_stage_parameters
        assert config.network.in_channels == config.first_stage.latent_channels


@pytest.mark.parametrize(
    ("name", "parameters", "tensors"),
    [("cifar10", 35_746_307, 328), ("celeba64", 78_700_803, 390), ("lsun256", 113_673_219, 450)],
)
def test_ddpm_networks_have_the_published_size(name, parameters, tensors):
    """Their public files keep q, k and v apart, so they hold more tensors than our network."""
    config = model_config(name).network
    with torch.device("meta"):
        weights = models.UNet(config).state_dict()
    modules = PESSER.modules(config)
    assert sum(weight.numel() for weight in weights.values()) == parameters
    assert len({key for name in weights for key in their_keys(name, modules, PESSER)}) == tensors


@pytest.mark.parametrize("name", SIZES)
def test_networks_are_recognised_by_keys_and_shapes(name):
    """The three unconditional VQ-4 models have one architecture, so any of their configurations will do. The ADMs
    without classes do, too, but for the dropout that they were trained with."""
    config = read_config(name)
    found = settle(in_public_names(config, OPENAI), {}, None)[1]
    assert replace(found, network=replace(found.network, dropout=config.network.dropout)) == config
    if config.network.context_dim is not None:
        assert settle(in_public_names(config, DIFFUSERS_CONDITIONAL), {}, None)[1] == config


def in_public_names(config, layout):
    with torch.device("meta"):
        weights = models.UNet(config.network).state_dict()
    modules = layout.modules(config.network)
    return {their_keys(name, modules, layout)[0]: like for name, like in weights.items()}


def test_conditioning_fits_the_unet():
    for name in SIZES:
        config = read_config(name)
        conditioning = config.conditioning and (config.conditioning.classes or config.conditioning.text)
        assert (conditioning and conditioning.dim) == config.network.context_dim


@pytest.mark.parametrize("name", ["ldm_celebahq256", "ldm_ffhq256", "ldm_beds256", "ldm_cin256_f8", "ldm_cin256_v2"])
def test_schedules_are_those_in_the_reference_files(golden, name):
    stored = golden("ldm_statedict_layout_tiny")["alphas_cumprod"]
    assert model_config(name).diffusion.alphas_cumprod().astype("float32").tolist() == stored.tolist()
