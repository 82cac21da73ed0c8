"""An architecture that cannot be built is refused in one sentence; one that can is hashable and numbered."""

from __future__ import annotations

import math
from dataclasses import fields

import pytest
import torch

import models
from configs import InputError
from experiments.model import ModelConfig
from models import PartsConfig, UNetConfig
from models.known import OTHER_SECTIONS

SOUND = {"resolution": 16, "channels": 32, "channel_mult": [1, 2]}


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channels": 0}, "channels must be at least 1, not 0"),
        ({"num_heads": 0}, "num_heads must be at least 1, not 0"),
        ({"head_channels": 0}, "head_channels must be at least 1, not 0"),
        ({"context_dim": 0}, "context_dim must be at least 1, not 0"),
        ({"num_classes": -1}, "num_classes must be at least 1, not -1"),
        ({"num_groups": 0}, "num_groups must be at least 1, not 0"),
        ({"norm_eps": 0.0}, "norm_eps must be a finite number above 0, not 0.0"),
        ({"norm_eps": math.nan}, "norm_eps must be a finite number above 0, not nan"),
        ({"norm_eps": math.inf}, "norm_eps must be a finite number above 0, not inf"),
        ({"channel_mult": [1, math.nan]}, "channel_mult must hold finite numbers, not [1, nan]"),
        ({"channel_mult": [1, math.inf]}, "channel_mult must hold finite numbers, not [1, inf]"),
        ({"channel_mult": [1, 1e308]}, "channel_mult must hold finite numbers, not [1, 1e+308]"),
        ({"channels": 3, "num_groups": 1}, "channels must be at least 4 for two frequencies of sin_cos, not 3"),
        ({"dropout": 1.0}, "dropout must lie in 0..1 (1 excluded), not 1.0"),
        ({"num_heads": 2, "head_channels": 16}, "a network has either num_heads or head_channels, not both"),
        (
            {"num_classes": 10, "context_dim": 24},
            "a network has either class labels (num_classes) or a context (context_dim), not both",
        ),
        ({"channel_mult": []}, "channel_mult must have one entry per level, e.g. [1, 2, 2, 2]"),
        (
            {"resolution": 15},
            "resolution 15 must be a multiple of 2, since each of the 2 levels but the first halves it",
        ),
        ({"attention_levels": [0, 2]}, "attention_levels [0, 2] must lie in 0..1"),
        (
            {"channels": 48},
            "level 0 is 48 channels wide, which is no multiple of 32, the groups of every normalisation",
        ),
        (
            {"channel_mult": [1, 0]},
            "level 1 is 0 channels wide, which is no multiple of 32, the groups of every normalisation",
        ),
        ({"num_heads": 3}, "3 heads do not divide the 64 channels of level 1"),
        ({"head_channels": 48}, "heads of 48 channels do not divide the 64 channels of level 1"),
        (
            {"timestep_embedding": "cos_sn"},
            "timestep_embedding 'cos_sn' does not exist; did you mean 'cos_sin'? known: cos_sin, sin_cos",
        ),
    ],
)  # fmt: skip
def test_an_impossible_architecture_is_refused(options, sentence):
    with pytest.raises(InputError) as error:
        UNetConfig(**SOUND | options)
    assert str(error.value) == sentence


@pytest.mark.parametrize(
    ("config", "sentence"),
    [
        ({}, "config lacks "),
        ({"network": None}, "config: network must be a mapping"),
        (SOUND | {"channel_mult": "1,2"}, "config: channel_mult must be "),
        (SOUND | {"channel_mult": [1, [2]]}, "config: channel_mult must be a list of numbers, not [1, [2]]"),
        (SOUND | {"channel_mult": {}}, "config: channel_mult must be a list of numbers, not {}"),
        (SOUND | {"attention_levels": {}}, "config: attention_levels must be a list of integers, not {}"),
        (SOUND | {"channels": "${x}"}, "config: channels must be an integer, not '${x}'"),
        (SOUND | {"channels": 10**400}, "config: channels must be less than 2^63, not 1000"),
        ({"network": []}, "config: network must be a mapping of keys to values, not []"),
        (SOUND | {"chanels": 32}, "config has no key 'chanels'; did you mean 'channels'?"),
        ({"network": SOUND, "atention_order": "new"}, "config has no key 'atention_order'; did you mean"),
        ({"network": SOUND, "attention_order": "old"}, "attention_order 'old' does not exist; known: legacy, new"),
        ("cifr10", "there is no configuration 'cifr10'"),
    ],
)
def test_a_configuration_that_says_something_else_is_refused(config, sentence):
    with pytest.raises(InputError) as error:
        models.load("random", config)
    assert str(error.value).startswith(sentence)
    assert "\n" not in str(error.value)


def test_the_sections_of_a_model_file_that_are_not_about_networks_may_be_there():
    config = {"network": SOUND, **{key: {} for key in OTHER_SECTIONS}}
    assert models.load("random", config).config == UNetConfig(**SOUND)
    names, ours = ({item.name for item in fields(schema)} for schema in (ModelConfig, PartsConfig))
    assert names - ours == set(OTHER_SECTIONS)


def test_a_network_attends_in_the_middle_whatever_its_levels():
    network = models.load("random", SOUND | {"head_channels": 16})
    assert network.middle.attn.heads == 4
    assert all(stage.attn is None for stage in [*network.down[1:], *network.up])


def test_lists_and_tuples_make_the_same_configuration():
    assert UNetConfig(16, 32, [1, 2], attention_levels=[1, 0]) == UNetConfig(16, 32, (1, 2), attention_levels=(0, 1))
    assert len({UNetConfig(16, 32, [1, 2]), UNetConfig(16, 32, (1.0, 2.0))}) == 1


def test_fractions_of_the_width():
    """ADM's 512x512 network is half as wide at its outermost level."""
    network = models.load("random", {"resolution": 16, "channels": 64, "channel_mult": [0.5, 1]})
    assert network.down[0].conv.out_channels == 32
    assert network(torch.zeros(1, 3, 16, 16), torch.tensor([1]))[0].shape == (1, 3, 16, 16)


def test_widths_that_are_read_off_a_file_come_back_whole():
    """120 / 88 · 88 is a little less than 120 in floating point."""
    config = UNetConfig(16, 88, [1, 120 / 88], num_groups=8)
    assert [config.width(level) for level in range(2)] == [88, 120]
