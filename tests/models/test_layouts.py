"""The same weights in every public layout give the network that diffusers computes with them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest
import torch
from diffusers import UNet2DModel
from public_names import (
    DDPM_OPTIONS,
    OPENAI_OPTIONS,
    conditional_unet,
    old_attention_names,
    openai,
    pesser,
    unet,
)
from safetensors.torch import save_file

import configs
import models
from configs import InputError
from models import PartsConfig, UNetConfig
from models.known import read_config

ATOL = 2e-5
T = torch.tensor([3, 951])


@torch.no_grad()
def differs_by(network, reference, cond=None, **reference_cond):
    """The largest difference between our network's eps and the reference's for the same random input."""
    x = torch.randn(2, reference.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(2))
    expected = reference(x, T, return_dict=False, **reference_cond)[0]
    return float((network(x, T, cond)[0] - expected).abs().max())


@pytest.fixture(scope="module")
def ddpm():
    """A DDPM network that no configuration knows."""
    return unet([32, 64, 64], [1], sample_size=32, **DDPM_OPTIONS)


DDPM = UNetConfig(resolution=32, channels=32, channel_mult=[1, 2, 2], attention_levels=[1])


def write_pesser(reference, folder):
    torch.save(pesser(reference.state_dict(), 3), folder / "model-790000.ckpt")
    return folder / "model-790000.ckpt"


def write_pesser_without_zip(reference, folder):
    """As torch wrote files before 1.6, the published ones among them."""
    torch.save(pesser(reference.state_dict(), 3), folder / "model.ckpt", _use_new_zipfile_serialization=False)
    return folder / "model.ckpt"


def training_list(reference, folder, ema_prefix):
    ema = pesser(reference.state_dict(), 3)
    raw = {f"module.{key}": torch.full_like(value, 0.5) for key, value in ema.items()}
    optimizer = {"state": {0: {"step": 3, "exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 2e-4, "params": [0]}]}
    ema = {f"{ema_prefix}{key}": value for key, value in ema.items()}
    torch.save([raw, optimizer, 12, 5000, ema], folder / "ckpt.pth")
    return folder / "ckpt.pth"


def write_training_list(reference, folder):
    return training_list(reference, folder, "")


def write_training_list_with_prefixed_average(reference, folder):
    return training_list(reference, folder, "module.")


def write_training_list_without_average(reference, folder):
    raw = {f"module.{key}": value for key, value in pesser(reference.state_dict(), 3).items()}
    torch.save([raw, {}, 12, 5000], folder / "ckpt.pth")
    return folder / "ckpt.pth"


def write_wrapped(reference, folder):
    torch.save({"state_dict": pesser(reference.state_dict(), 3), "global_step": 7}, folder / "last.ckpt")
    return folder / "last.ckpt"


def write_diffusers(reference, folder):
    reference.save_pretrained(folder)
    return folder


def write_diffusers_bin(reference, folder):
    reference.save_pretrained(folder, safe_serialization=False)
    assert (folder / "diffusion_pytorch_model.bin").exists()
    return folder


def write_diffusers_file(reference, folder):
    reference.save_pretrained(folder)
    return folder / "diffusion_pytorch_model.safetensors"


def write_diffusers_old_names(reference, folder):
    reference.save_config(folder)
    torch.save(old_attention_names(reference.state_dict()), folder / "diffusion_pytorch_model.bin")
    return folder


def write_diffusers_pipeline(reference, folder):
    reference.save_pretrained(folder / "unet")
    (folder / "model_index.json").write_text('{"_class_name": "DDPMPipeline"}')
    return folder


def write_diffusers_variant(reference, folder):
    reference.save_pretrained(folder, variant="ema")
    return folder / "diffusion_pytorch_model.ema.safetensors"


PESSER = "DDPM (pesser, ermongroup, DeepCache)"
WRITERS = {
    write_pesser: PESSER,
    write_pesser_without_zip: PESSER,
    write_training_list: PESSER,
    write_training_list_with_prefixed_average: PESSER,
    write_training_list_without_average: PESSER,
    write_wrapped: PESSER,
    write_diffusers: "diffusers UNet2DModel",
    write_diffusers_bin: "diffusers UNet2DModel",
    write_diffusers_file: "diffusers UNet2DModel",
    write_diffusers_pipeline: "diffusers UNet2DModel",
    write_diffusers_variant: "diffusers UNet2DModel",
    write_diffusers_old_names: "diffusers UNet2DModel (old attention names)",
}


@pytest.mark.parametrize("write", WRITERS, ids=lambda write: write.__name__.removeprefix("write_"))
def test_a_ddpm_network_in_every_layout(ddpm, tmp_path, write):
    checkpoint = write(ddpm, tmp_path)
    network = models.load(checkpoint)
    assert network.config == DDPM
    assert differs_by(network, ddpm) <= ATOL
    assert network.provenance.layout == WRITERS[write]
    assert network.provenance.source == str(checkpoint)
    assert not network.training
    assert not any(parameter.requires_grad for parameter in network.parameters())


@pytest.mark.parametrize("write", [write_pesser, write_diffusers])
def test_a_configuration_may_be_given_in_five_ways(ddpm, tmp_path, write):
    checkpoint = write(ddpm, tmp_path)
    network = {"resolution": 32, "channels": 32, "channel_mult": [1, 2, 2], "attention_levels": [1]}
    (tmp_path / "tiny.yaml").write_text(json.dumps({"network": network}))  # JSON is YAML
    for config in (DDPM, network, {"network": network}, tmp_path / "tiny.yaml", str(tmp_path / "tiny.yaml")):
        assert models.load(checkpoint, config).config == DDPM


def test_a_configuration_may_be_given_by_name(tmp_path):
    config = configs.parse(UNetConfig, configs.read(configs.find("mnist32", "models"))["network"], where="mnist32")
    options = DDPM_OPTIONS | {"norm_num_groups": config.num_groups, "in_channels": 1, "out_channels": 1}
    reference = unet([32, 64, 64, 64], [1], sample_size=32, **options)
    torch.save(pesser(reference.state_dict(), 4), tmp_path / "model.ckpt")
    network = models.load(tmp_path / "model.ckpt", "mnist32")
    assert network.config == config
    assert differs_by(network, reference) <= ATOL
    assert differs_by(models.load(write_diffusers(reference, tmp_path)), reference) <= ATOL
    # Its keys and shapes are mnist32's, but every public DDPM network has 32 groups.
    assert models.load(tmp_path / "model.ckpt").config == replace(config, num_groups=32)
    assert models.load("random", "mnist32").config == config


def test_random_weights_are_the_same_every_time():
    once, again = models.load("random", DDPM), models.load("random", DDPM)
    assert all(torch.equal(a, b) for a, b in zip(once.parameters(), again.parameters(), strict=True))
    assert once.provenance.source == "random"
    with pytest.raises(InputError, match="random weights need a configuration"):
        models.load("random")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_our_own_layout(tmp_path, dtype):
    written = models.load("random", replace(DDPM, dropout=0.1))
    models.save(written, tmp_path / "own.safetensors", dtype=dtype, training={"images": 1000})
    network = models.load(tmp_path / "own.safetensors")
    assert network.config == written.config
    assert network.provenance.layout == "native"
    assert network.provenance.records == {"training": {"images": 1000}}
    for (name, stored), original in zip(network.named_parameters(), written.parameters(), strict=True):
        assert stored.dtype == torch.float32
        assert torch.equal(stored, original.to(dtype).float()), name


def test_half_precision_files_are_widened_exactly(ddpm, tmp_path):
    halved = {key: value.half() for key, value in pesser(ddpm.state_dict(), 3).items()}
    torch.save(halved, tmp_path / "half.ckpt")
    network = models.load(tmp_path / "half.ckpt")
    assert torch.equal(network.conv_out.weight, halved["conv_out.weight"].float())
    assert models.load(tmp_path / "half.ckpt", dtype=torch.float16).conv_out.weight.dtype == torch.float16


def test_the_digest_is_of_the_file_that_was_read(ddpm, tmp_path):
    network = models.load(write_diffusers(ddpm, tmp_path))
    assert network.provenance.file == tmp_path / "diffusion_pytorch_model.safetensors"
    assert len(network.provenance.sha256) == 64
    assert network.provenance.published == ""


OPENAI = {"timestep_embedding": "cos_sin", "norm_eps": 1e-5, "downsample_padding": "symmetric"}


@pytest.mark.parametrize("heads", [1, 4])
def test_openai_names_with_fused_attention(tmp_path, heads):
    reference = unet([32, 64, 64], [1, 2], attention_head_dim=64 // heads, **OPENAI_OPTIONS)
    torch.save(openai(reference.state_dict(), 2, [1, 2], heads), tmp_path / "model.pt")
    config = {"resolution": 16, "channels": 32, "channel_mult": [1, 2, 2], "attention_levels": [1, 2],
              "num_heads": heads, **OPENAI}  # fmt: skip
    network = models.load(tmp_path / "model.pt", config)
    assert differs_by(network, reference) <= ATOL
    assert network.provenance.layout == "latent-diffusion or guided-diffusion"


def test_openai_names_of_a_guided_diffusion_network(tmp_path):
    reference = unet([32, 64, 64], [1, 2], resblocks=True, num_class_embeds=10, attention_head_dim=16, **OPENAI_OPTIONS)
    torch.save(openai(reference.state_dict(), 2, [1, 2], 4), tmp_path / "model.pt")
    config = {"resolution": 16, "channels": 32, "channel_mult": [1, 2, 2], "attention_levels": [1, 2],
              "head_channels": 16, "num_classes": 10, "resample": "resblock", "scale_shift_norm": True,
              **OPENAI}  # fmt: skip
    labels = torch.tensor([0, 9])
    assert differs_by(models.load(tmp_path / "model.pt", config), reference, labels, class_labels=labels) <= ATOL


def test_openai_names_of_a_latent_diffusion_network(tmp_path):
    reference = conditional_unet([32, 64], [0, 1], cross_attention_dim=24, attention_head_dim=2, in_channels=4)
    torch.save(openai(reference.state_dict(), 2, [0, 1], 2), tmp_path / "model.pt")
    config = {"resolution": 16, "channels": 32, "channel_mult": [1, 2], "attention_levels": [0, 1], "in_channels": 4,
              "out_channels": 4, "num_heads": 2, "context_dim": 24, **OPENAI}  # fmt: skip
    context = torch.randn(2, 7, 24, generator=torch.Generator().manual_seed(3))
    network = models.load(tmp_path / "model.pt", config)
    assert differs_by(network, reference, context, encoder_hidden_states=context) <= ATOL


def test_openai_names_alone_do_not_show_the_heads(tmp_path):
    reference = unet([32, 64], [1], attention_head_dim=16, **OPENAI_OPTIONS)
    torch.save(openai(reference.state_dict(), 2, [1], 4), tmp_path / "model.pt")
    with pytest.raises(InputError, match="do not show how many heads its attention has") as error:
        models.load(tmp_path / "model.pt")
    assert str(tmp_path / "model.pt") in str(error.value)


def test_a_known_architecture_brings_its_attention_order(tmp_path, monkeypatch):
    """config=None takes the whole configuration whose architecture a file has, the order of its channels included."""
    network = {"resolution": 16, "channels": 32, "channel_mult": [1, 2], "attention_levels": [1], "num_heads": 4,
               **OPENAI}  # fmt: skip
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "new.yaml").write_text(json.dumps({"network": network, "attention_order": "new"}))
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    reference = unet([32, 64], [1], attention_head_dim=16, **OPENAI_OPTIONS)
    torch.save(openai(reference.state_dict(), 2, [1], 4), tmp_path / "model.pt")
    x = torch.randn(1, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    recognised, _ = models.load(tmp_path / "model.pt")(x, T[:1])
    for order, same in (("new", True), ("legacy", False)):
        given = models.load(tmp_path / "model.pt", {"network": network, "attention_order": order})
        assert torch.equal(given(x, T[:1])[0], recognised) == same


def test_a_network_alone_brings_what_is_published_of_it(tmp_path, monkeypatch):
    """Its own configuration, without that section: the order of the file's channels is no part of a network."""
    network = {"resolution": 16, "channels": 32, "channel_mult": [1, 2], "attention_levels": [1], "num_heads": 4,
               **OPENAI}  # fmt: skip
    (tmp_path / "models").mkdir()
    published = {"network": network, "attention_order": "new", "weights": "raw"}
    (tmp_path / "models" / "new.yaml").write_text(json.dumps(published))
    monkeypatch.setattr(configs, "FOLDER", tmp_path)
    for config in (network, UNetConfig(**network)):
        assert read_config(config) == PartsConfig(UNetConfig(**network), attention_order="new", weights="raw")
    for other in ({"resolution": 32}, {"dropout": 0.5}):  # which change no weight
        assert read_config(network | other).attention_order == "new"
    assert read_config(network | {"channels": 64}).attention_order == "legacy"
    other = UNetConfig(**network | {"num_heads": 2})
    assert read_config(other) == PartsConfig(other, attention_order="legacy", weights="ema")


def test_published_networks_alone():
    """ADM-64's order is the new one and LDM-4-G samples with its raw weights, which nothing in their networks shows."""
    assert read_config(read_config("adm_imagenet64").network).attention_order == "new"
    assert read_config(read_config("ldm_cin256_v2").network).weights == "raw"


@pytest.mark.parametrize(("levels", "attention", "resolution"), [(6, [0], 32), (3, [1], 32), (3, [], 64), (1, [], 16)])
def test_the_guessed_resolution_can_be_halved(tmp_path, levels, attention, resolution):
    reference = unet([32] * levels, attention, layers_per_block=1, **DDPM_OPTIONS)
    torch.save(pesser(reference.state_dict(), levels), tmp_path / "model.ckpt")
    assert models.load(tmp_path / "model.ckpt").config.resolution == resolution


@pytest.mark.parametrize(
    ("name", "widths", "attention", "parameters", "tensors"),
    [
        ("cifar10", [128, 256, 256, 256], [1], 35_746_307, 328),
        ("lsun256", [128, 128, 256, 256, 512, 512], [4], 113_673_219, 450),
    ],
)
def test_full_size_networks_are_recognised(tmp_path, name, widths, attention, parameters, tensors):
    config = configs.parse(UNetConfig, configs.read(configs.find(name, "models"))["network"], where=name)
    with torch.device("meta"):
        reference = UNet2DModel(
            block_out_channels=widths,
            down_block_types=["AttnDownBlock2D" if i in attention else "DownBlock2D" for i in range(len(widths))],
            up_block_types=["AttnUpBlock2D" if i in attention else "UpBlock2D" for i in range(len(widths))][::-1],
            **DDPM_OPTIONS,
        )
    # One stored number per tensor, seen in every element: the shapes without the bytes.
    shapes = {key: value.shape for key, value in reference.state_dict().items()}
    hollow = pesser({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, len(widths))
    torch.save(hollow, tmp_path / "model.ckpt")
    network = models.load(tmp_path / "model.ckpt")
    assert network.config == config
    assert len(hollow) == tensors
    assert sum(parameter.numel() for parameter in network.parameters()) == parameters

    # The hub's files, too, where config.json got lost.
    torch.save({key: torch.zeros(()).expand(shape) for key, shape in shapes.items()}, tmp_path / "hub.bin")
    assert models.load(tmp_path / "hub.bin").config == config


def test_a_diffusers_network_of_another_kind_says_which_setting_it_is(ddpm, tmp_path):
    write_diffusers(ddpm, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    for key, value in {
        "act_fn": "gelu",
        "resnet_time_scale_shift": "scale_shift",
        "dual_cross_attention": True,
    }.items():
        (tmp_path / "config.json").write_text(json.dumps(config | {key: value}))
        with pytest.raises(InputError, match=f"has {key} = {value!r}; only .* is supported"):
            models.load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"flip_sin_to_cos": True}))
    with pytest.raises(InputError, match="flip_sin_to_cos = True with freq_shift = 1"):
        models.load(tmp_path)


def test_config_json_decides_what_the_weights_do_not_show(tmp_path):
    reference = unet([32, 64], [1], attention_head_dim=16, sample_size=16, **OPENAI_OPTIONS)
    network = models.load(write_diffusers(reference, tmp_path))
    assert network.config == UNetConfig(
        resolution=16, channels=32, channel_mult=[1, 2], attention_levels=[1], head_channels=16, **OPENAI
    )
    assert differs_by(network, reference) <= ATOL


def test_what_a_config_json_leaves_out_is_diffusers_default(tmp_path):
    reference = unet([32, 64], [1], norm_eps=1e-5)
    write_diffusers(reference, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    told = {"_class_name", "block_out_channels", "down_block_types", "up_block_types"}
    (tmp_path / "config.json").write_text(json.dumps({key: config[key] for key in told}))
    network = models.load(tmp_path)
    assert network.config.head_channels == 8
    assert differs_by(network, reference) <= ATOL


def test_diffusers_weights_without_their_config_json_are_not_guessed_at(ddpm, tmp_path):
    write_diffusers(ddpm, tmp_path)
    (tmp_path / "config.json").unlink()
    with pytest.raises(InputError, match="do not show how many heads its attention has"):
        models.load(tmp_path)
    assert differs_by(models.load(tmp_path, DDPM), ddpm) <= ATOL


@pytest.mark.parametrize("write", [write_diffusers, lambda reference, folder: own_file(folder)])
def test_a_configuration_that_contradicts_the_file_is_refused(ddpm, tmp_path, write):
    checkpoint = write(ddpm, tmp_path)
    wrong = asdict(DDPM) | {"norm_eps": 1e-5}
    with pytest.raises(InputError, match="norm_eps is 1e-06, but the configuration says 1e-05"):
        models.load(checkpoint, wrong)
    assert models.load(checkpoint, asdict(DDPM) | {"dropout": 0.3}).config.channels == 32


def own_file(folder):
    models.save(models.load("random", DDPM), folder / "own.safetensors")
    return folder / "own.safetensors"


def test_public_weights_in_safetensors_need_no_metadata(ddpm, tmp_path):
    save_file(pesser(ddpm.state_dict(), 3), tmp_path / "model.safetensors")
    assert differs_by(models.load(tmp_path / "model.safetensors"), ddpm) <= ATOL
