"""Forward passes equal the reference implementations' on the same weights, to float32 rounding.

The references are ermongroup/ddim, CompVis/latent-diffusion, openai/guided-diffusion and horseee/DeepCache.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional as F

import models
from models.attention import SpatialTransformer

# Four times what the reference itself moves by when it sums in another order, and for the tiny networks never above
# 1.2e-5, below what a wrong GroupNorm eps or GELU costs (see the tests of wrong details).
TINY = 1.2e-5
ATOL = {"ddim_cifar10": 4.4e-5, "ldm_cin256_v2": 6.9e-5}

NETWORKS = [
    "ddim_cifar10",
    "ddim_tiny16",
    "ldm_tiny_class",
    "ldm_tiny_sd",
    "ldm_tiny_uncond",
    "guided_tiny_neworder_cond",
    "guided_tiny_plain_eps",
    pytest.param("ldm_cin256_v2", marks=pytest.mark.slow),  # 400 million parameters
]


def openai_config(reference: dict[str, Any]) -> dict[str, Any]:
    """The contents of a configuration file for a U-Net of guided-diffusion or latent-diffusion, from its arguments."""
    levels = range(len(reference["channel_mult"]))
    head_channels = reference.get("num_head_channels")
    network = {
        "resolution": reference["image_size"],
        "channels": reference["model_channels"],
        "channel_mult": reference["channel_mult"],
        "in_channels": reference["in_channels"],
        "out_channels": reference["out_channels"],
        "num_res_blocks": reference["num_res_blocks"],
        # Their attention_resolutions are factors of downsampling.
        "attention_levels": [level for level in levels if 2**level in reference["attention_resolutions"]],
        "num_heads": None if head_channels else reference["num_heads"],
        "head_channels": head_channels,
        "context_dim": reference.get("context_dim"),
        "num_classes": reference.get("num_classes"),
        "timestep_embedding": "cos_sin",
        "norm_eps": 1e-5,
        "downsample_padding": "symmetric",
        "resample": "resblock" if reference.get("resblock_updown") else "conv",
        "scale_shift_norm": bool(reference.get("use_scale_shift_norm")),
    }
    return {"network": network, "attention_order": "new" if reference.get("use_new_attention_order") else "legacy"}


def load(golden, tmp_path, config=None):
    """The golden's weights, written as its code base writes them and read through the public loader."""
    torch.save(golden.state_dict(), tmp_path / "model.ckpt")
    if config is None and "model_channels" in golden.config:
        config = openai_config(golden.config)
    return models.load(tmp_path / "model.ckpt", config)


def table(golden, key):
    return torch.from_numpy(golden[key])


def cond_of(golden):
    if golden.config.get("context_dim"):
        return golden.tensor("context")
    return table(golden, "y") if golden.config.get("num_classes") else None


@torch.no_grad()
def forward(network, golden):
    eps, _ = network(golden.tensor("x"), table(golden, "t"), cond_of(golden))
    return eps


@pytest.mark.parametrize("name", NETWORKS)
def test_full_pass_equals_the_reference(golden, tmp_path, name):
    reference = golden(name)
    reference.check("out", forward(load(reference, tmp_path), reference), ATOL.get(name, TINY))


@torch.no_grad()
def test_every_branch_of_the_released_ddpm_code(golden, tmp_path):
    """Branch r of the released code is our branch r + 1; it has none for our branch 0."""
    reference = golden("deepcache_tiny32x3")
    network = load(reference, tmp_path)
    x1, x2 = reference.tensor("x1"), reference.tensor("x2")
    t1, t2 = table(reference, "t1"), table(reference, "t2")

    out1, features = network(x1, t1, taps=range(network.num_branches))
    reference.check("out1_full", out1, TINY)
    reference.check("out2_full", network(x2, t2)[0], TINY)
    assert list(reference["branches_ok"]) == list(range(network.num_branches - 1))
    for released in reference["branches_ok"]:
        feature = features[released + 1]
        assert list(feature.shape) == list(reference[f"cache_shape_b{released}"])
        stats = torch.stack([feature.mean(), feature.std(), feature.abs().max()]).double()
        torch.testing.assert_close(stats, table(reference, f"cache_stats_b{released}"), rtol=1e-5, atol=TINY)
        out2, _ = network(x2, t2, branch=int(released) + 1, feature=feature)
        reference.check(f"out2_partial_b{released}", out2, TINY)


@torch.no_grad()
def test_the_released_latent_diffusion_cache(golden, tmp_path):
    """Its one cached point, what enters the last output block, is our branch 0."""
    reference = golden("deepcache_ldm_tiny_class")
    network = load(reference, tmp_path)
    context = reference.tensor("context")
    x1, x2 = reference.tensor("x1"), reference.tensor("x2")
    t1, t2 = table(reference, "t1"), table(reference, "t2")

    out1, features = network(x1, t1, context, taps=[0])
    reference.check("out1_full", out1, TINY)
    reference.check("cache_used", features[0], TINY)
    reference.check("out2_partial", network(x2, t2, context, branch=0, feature=features[0])[0], TINY)
    reference.check("out2_full", network(x2, t2, context)[0], TINY)


@pytest.mark.parametrize(
    ("name", "detail", "wrong"),
    [
        ("ddim_tiny16", "norm_eps", 1e-5),
        ("ddim_tiny16", "timestep_embedding", "cos_sin"),
        ("ddim_tiny16", "downsample_padding", "symmetric"),
        ("ldm_tiny_class", "norm_eps", 1e-6),
        ("ldm_tiny_class", "timestep_embedding", "sin_cos"),
        ("ldm_tiny_class", "num_heads", 2),
        ("ldm_tiny_sd", "norm_eps", 1e-6),
        ("ldm_tiny_uncond", "norm_eps", 1e-6),
        ("guided_tiny_neworder_cond", "head_channels", 32),
        ("guided_tiny_plain_eps", "downsample_padding", "asymmetric"),
    ],
)
def test_a_wrong_detail_would_be_noticed(golden, tmp_path, name, detail, wrong):
    reference = golden(name)
    right = load(reference, tmp_path).config
    eps = forward(load(reference, tmp_path, replace(right, **{detail: wrong})), reference)
    with pytest.raises(AssertionError, match="max abs diff"):
        reference.check("out", eps, TINY)


@pytest.mark.parametrize(("name", "wrong"), [("guided_tiny_neworder_cond", "legacy"), ("guided_tiny_plain_eps", "new")])
def test_a_wrong_attention_order_would_be_noticed(golden, tmp_path, name, wrong):
    reference = golden(name)
    config = openai_config(reference.config) | {"attention_order": wrong}
    with pytest.raises(AssertionError, match="max abs diff"):
        reference.check("out", forward(load(reference, tmp_path, config), reference), TINY)


@pytest.mark.parametrize("name", ["ldm_tiny_class", "ldm_tiny_sd"])
def test_the_approximate_gelu_would_be_noticed(golden, tmp_path, name, monkeypatch):
    reference = golden(name)
    exact = F.gelu
    monkeypatch.setattr(F, "gelu", lambda gate: exact(gate, approximate="tanh"))
    with pytest.raises(AssertionError, match="max abs diff"):
        reference.check("out", forward(load(reference, tmp_path), reference), TINY)


@pytest.mark.parametrize("name", ["ldm_tiny_class", "ldm_tiny_sd"])
def test_a_wrong_eps_of_the_transformers_would_be_noticed(golden, tmp_path, name):
    reference = golden(name)
    network = load(reference, tmp_path)
    for module in network.modules():
        if isinstance(module, SpatialTransformer):
            module.norm.eps = 1e-5
    with pytest.raises(AssertionError, match="max abs diff"):
        reference.check("out", forward(network, reference), TINY)
