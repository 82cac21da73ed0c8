"""First stages: equal to the reference and to diffusers, in every public layout."""

from __future__ import annotations

import json
import re

import pytest
import torch
from diffusers import AutoencoderKL, VQModel
from public_names import old_attention_names
from safetensors.torch import save_file

import models
from configs import InputError
from models import FirstStageConfig, KLFirstStage, VQFirstStage, first_stage, layouts
from models.autoencoder import Posterior
from models.layouts.first_stage import COMPVIS
from models.layouts.translate import their_keys

# name: configuration, parameters and tensors of the published file (where they are known)
PUBLISHED = {
    "vq-f4": ({"channel_mult": [1, 2, 4], "latent_channels": 3, "codebook_size": 8192}, 55_322_782, 205),
    "vq-f4-noattn": (
        {"channel_mult": [1, 2, 4], "latent_channels": 3, "codebook_size": 8192, "middle_attention": False}, None, 185,
    ),
    "vq-f8": (
        {"channel_mult": [1, 2, 2, 4], "latent_channels": 4, "codebook_size": 16384, "attention_levels": [3]},
        67_717_295, 299,
    ),
    "vq-f8-n256": (
        {"channel_mult": [1, 2, 2, 4], "latent_channels": 4, "codebook_size": 256, "attention_levels": [3]}, None, 299,
    ),
    "vq-f16": (
        {"channel_mult": [1, 1, 2, 2, 4], "latent_channels": 8, "codebook_size": 16384, "attention_levels": [4]},
        None, None,
    ),
    "kl-f4": ({"channel_mult": [1, 2, 4], "latent_channels": 3}, None, None),
    "kl-f8": ({"channel_mult": [1, 2, 4, 4], "latent_channels": 4}, 83_653_863, 248),
    "kl-f16": ({"channel_mult": [1, 1, 2, 2, 4], "latent_channels": 16, "attention_levels": [4]}, None, None),
    "kl-f32": ({"channel_mult": [1, 1, 2, 2, 4, 4], "latent_channels": 64, "attention_levels": [4, 5]}, None, None),
}  # fmt: skip


def load_golden(golden, name):
    file = golden(name)
    config = FirstStageConfig(**COMPVIS.infer(file.state_dict()))
    network = first_stage(config).requires_grad_(False)
    network.load_state_dict(layouts.translate(file.state_dict(), COMPVIS, network))
    return file, network


def randomised(network):
    """Reproducible random weights in which no layer is left at 0 or 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
    return network.eval().requires_grad_(False)


def kl_reference(**options):
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    return randomised(AutoencoderKL(block_out_channels=[32, 64], layers_per_block=2, **(blocks | options)))


def vq_reference(**options):
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 2, "up_block_types": ["UpDecoderBlock2D"] * 2}
    options = {"layers_per_block": 2, "num_vq_embeddings": 50, "latent_channels": 3} | blocks | options
    return randomised(VQModel(block_out_channels=[32, 64], **options))


def images(count=2, size=12):
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(1)).clamp(-1, 1)


def test_kl_equals_the_reference(golden):
    file, network = load_golden(golden, "ae_kl_f8_tiny")
    posterior = network.posterior(file.tensor("image"))
    file.check("enc_mean", posterior.mean, atol=5e-6)
    file.check("enc_logvar_clamped", posterior.logvar, atol=5e-6)
    file.check("enc_std", posterior.std, atol=5e-6)
    file.check("dec", network.decode(file.tensor("z")), atol=1.2e-5)


@pytest.mark.parametrize("name", ["ae_vq_f4_tiny", "ae_vq_f4_noattn_tiny"])
def test_vq_equals_the_reference(golden, name):
    file, network = load_golden(golden, name)
    z = file.tensor("z")
    file.check("enc_prequant", network.encode(file.tensor("image")), atol=5e-6)
    assert network.quantise(z).flatten().tolist() == file["indices"].tolist()
    # The reference returns z + (code - z), up to 1.5e-8 off the code that we return.
    file.check("zq", network.codebook(network.quantise(z)).permute(0, 3, 1, 2), atol=2e-8)
    file.check("dec", network.decode(z), atol=2.5e-5)


@pytest.mark.parametrize("old_names", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"],
                     "up_block_types": ["AttnUpDecoderBlock2D", "UpDecoderBlock2D"]}],
    ids=["middle attention", "attention at the inner level"],
)  # fmt: skip
def test_kl_equals_diffusers_from_its_folder(tmp_path, options, old_names):
    reference = kl_reference(scaling_factor=0.5, **options)
    reference.save_config(tmp_path)
    state = old_attention_names(reference.state_dict()) if old_names else reference.state_dict()
    save_file(dict(state), tmp_path / "diffusion_pytorch_model.safetensors")
    network = models.load_first_stage(tmp_path)
    expected = reference.encode(images()).latent_dist
    assert isinstance(network, KLFirstStage)
    assert network.config.scale_factor == 0.5
    torch.testing.assert_close(network.posterior(images()).mean, expected.mean, atol=5e-6, rtol=0)
    torch.testing.assert_close(network.posterior(images()).logvar, expected.logvar, atol=5e-6, rtol=0)
    torch.testing.assert_close(network.encode(images()), 0.5 * expected.mean, atol=5e-6, rtol=0)
    z = torch.randn(2, 4, 6, 6)
    torch.testing.assert_close(network.decode(0.5 * z), reference.decode(z).sample, atol=1e-5, rtol=0)


@pytest.mark.parametrize("middle_attention", [True, False])
def test_vq_equals_diffusers_from_its_folder(tmp_path, middle_attention):
    reference = vq_reference(mid_block_add_attention=middle_attention, scaling_factor=1.0)
    reference.save_pretrained(tmp_path)
    network = models.load_first_stage(tmp_path)
    assert isinstance(network, VQFirstStage)
    assert network.config.middle_attention == middle_attention
    torch.testing.assert_close(network.encode(images()), reference.encode(images()).latents, atol=5e-6, rtol=0)
    z = torch.randn(2, 3, 6, 6)
    # Codes are small numbers here, whose rounding the normalisations after them magnify.
    torch.testing.assert_close(network.decode(z), reference.decode(z).sample, atol=1e-4, rtol=0)


@pytest.mark.parametrize(("reference", "factor"), [(kl_reference, 0.18215), (vq_reference, 1.0)])
def test_a_config_json_without_scaling_factor_means_the_published_one(tmp_path, reference, factor):
    reference().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["scaling_factor"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert models.load_first_stage(tmp_path).config.scale_factor == factor


def test_a_first_stage_unlike_compvis_is_refused(tmp_path):
    kl_reference(shift_factor=0.1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"config.json has shift_factor = 0.1; only None is supported"):
        models.load_first_stage(tmp_path)


def test_posterior_samples_are_mean_plus_std_times_noise():
    network = models.load_first_stage("random", FirstStageConfig([1, 2], 4, channels=32, scale_factor=0.5))
    mean, logvar = network.posterior(images())
    noise = torch.randn(mean.shape)
    expected = 0.5 * (mean + (0.5 * logvar).exp() * noise)
    torch.testing.assert_close(network.encode(images(), noise), expected)
    assert torch.equal(network.encode(images()), 0.5 * mean)


def test_log_variances_are_clamped():
    network = models.load_first_stage("random", FirstStageConfig([1, 2], 4, channels=32))
    network.conv_moments.bias.fill_(100.0)
    assert (network.posterior(images()).logvar == 20).all()
    network.conv_moments.bias.fill_(-100.0)
    assert (network.posterior(images()).logvar == -30).all()
    assert Posterior(torch.zeros(1), torch.full((1,), -30.0)).std == pytest.approx(3.06e-7, rel=1e-3)


def test_quantising_finds_the_nearest_code():
    network = models.load_first_stage("random", FirstStageConfig([1], 5, 40, channels=32))
    z = torch.randn(3, 5, 4, 6)
    points = z.permute(0, 2, 3, 1).reshape(-1, 1, 5)
    nearest = (points - network.codebook.weight).square().sum(-1).argmin(1)
    assert torch.equal(network.quantise(z), nearest.reshape(3, 4, 6))


def test_in_half_precision_codes_are_still_told_apart():
    network = models.load_first_stage("random", FirstStageConfig([1], 3, 4096, channels=32), dtype=torch.bfloat16)
    z = torch.randn(2, 3, 16, 16, dtype=torch.bfloat16)
    codes = network.codebook.weight.double()
    distances = (z.permute(0, 2, 3, 1).double().unsqueeze(-2) - codes).square().sum(-1)
    chosen = distances.gather(-1, network.quantise(z)[..., None])[..., 0]
    torch.testing.assert_close(chosen, distances.amin(-1), atol=1e-5, rtol=0)


def test_scaled_latents_are_quantised_unscaled():
    config = FirstStageConfig([1], 3, 40, channels=32)
    plain = models.load_first_stage("random", config)
    scaled = models.load_first_stage("random", FirstStageConfig([1], 3, 40, channels=32, scale_factor=0.25))
    z = torch.randn(2, 3, 4, 4)
    assert torch.equal(scaled.decode(0.25 * z), plain.decode(z))
    assert torch.equal(scaled.encode(images()), 0.25 * plain.encode(images()))


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_architectures(name):
    options, parameters, tensors = PUBLISHED[name]
    config = FirstStageConfig(**options)
    with torch.device("meta"):
        network = first_stage(config)
    assert config.downsampling == int(re.search(r"f(\d+)", name)[1])
    if parameters:
        assert sum(p.numel() for p in network.parameters()) == parameters
    theirs = in_compvis_names(network)
    assert tensors is None or len(theirs) == tensors
    assert FirstStageConfig(**COMPVIS.infer(theirs)) == config


def in_compvis_names(network):
    modules, tensors = COMPVIS.modules(network.config), {}
    for name, like in network.state_dict().items():
        keys = their_keys(name, modules, COMPVIS)
        tensors |= dict(zip(keys, like.chunk(len(keys)), strict=True))
    return tensors


def test_images_whose_sides_do_not_divide_are_refused():
    network = models.load_first_stage("random", FirstStageConfig([1, 2, 2], 4, channels=32))
    with pytest.raises(InputError, match="images of 12x10 cannot be encoded; both sides must be multiples of 4"):
        network.encode(torch.zeros(1, 3, 12, 10))


def test_random_weights_are_reproducible():
    config = FirstStageConfig([1, 2], 4, channels=32)
    first, second = (models.load_first_stage("random", config).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"channel_mult": [], "latent_channels": 3}, "channel_mult must have one entry per level"),
        ({"channel_mult": [1, 2], "latent_channels": 0}, "latent_channels must be at least 1, not 0"),
        ({"channel_mult": [1, 2], "latent_channels": 3, "attention_levels": [2]}, r"\[2\] must lie in 0..1"),
        ({"channel_mult": [1], "latent_channels": 3, "channels": 48}, "32 groups do not divide its 48 channels"),
        ({"channel_mult": [1], "latent_channels": 3, "scale_factor": 0.0}, "scale_factor must be a finite number"),
        ({"channel_mult": [1], "latent_channels": 3, "scale_factor": float("nan")}, "scale_factor must be a finite"),
    ],
)
def test_impossible_first_stages_are_refused(options, sentence):
    with pytest.raises(InputError, match=sentence):
        FirstStageConfig(**options)
