"""Whatever is wrong with a checkpoint, one sentence says so and names the file; nothing in a file is ever run."""

from __future__ import annotations

import json
import math
import os
import pickle
import random
import shutil
from dataclasses import asdict

import pytest
import torch
import torchvision
from PIL import Image
from public_names import DDPM_OPTIONS, OPENAI_OPTIONS, openai, pesser, unet
from safetensors.torch import load_file, save_file

import models
from configs import InputError
from models import UNetConfig

# torch's, about bytes that begin like a pickle.
pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

SMALLEST = {"widths": [32, 32], "attention_levels": [1], "layers_per_block": 1}
CONFIG = UNetConfig(resolution=32, channels=32, channel_mult=[1, 1], num_res_blocks=1, attention_levels=[1])
OPENAI_CONFIG = UNetConfig(
    resolution=16, channels=32, channel_mult=[1, 1], num_res_blocks=1, attention_levels=[1], num_heads=2,
    timestep_embedding="cos_sin", norm_eps=1e-5, downsample_padding="symmetric",
)  # fmt: skip


def refused(checkpoint, config=None):
    """The sentence with which `load` refuses a checkpoint; it is one line and names the file."""
    with pytest.raises(InputError) as error:
        models.load(checkpoint, config)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert str(checkpoint) in sentence
    return sentence


@pytest.fixture(scope="module")
def ddpm():
    return pesser(unet(sample_size=32, **SMALLEST, **DDPM_OPTIONS).state_dict(), 2)


@pytest.fixture(scope="module")
def guided():
    reference = unet(attention_head_dim=16, **SMALLEST, **OPENAI_OPTIONS)
    return openai(reference.state_dict(), 1, [1], 2)


@pytest.fixture
def diffusers_folder(tmp_path):
    unet(sample_size=32, **SMALLEST, **DDPM_OPTIONS).save_pretrained(tmp_path / "folder")
    return tmp_path / "folder"


@pytest.fixture
def own(tmp_path):
    models.save(models.load("random", CONFIG), tmp_path / "own.safetensors")
    return tmp_path / "own.safetensors"


def test_the_undamaged_files_load(ddpm, guided, own, diffusers_folder, tmp_path):
    """So that what the other tests see comes from the damage."""
    torch.save(ddpm, tmp_path / "ddpm.ckpt")
    torch.save(guided, tmp_path / "guided.pt")
    assert models.load(tmp_path / "ddpm.ckpt").config == CONFIG
    assert models.load(tmp_path / "guided.pt", OPENAI_CONFIG).config == OPENAI_CONFIG
    assert models.load(own).config == CONFIG
    assert models.load(diffusers_folder).config == CONFIG


@pytest.mark.parametrize("share", [0.001, 0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_a_truncated_torch_file(ddpm, tmp_path, as_zip, share):
    path = tmp_path / "model.ckpt"
    torch.save(ddpm, path, _use_new_zipfile_serialization=as_zip)
    os.truncate(path, int(share * path.stat().st_size))
    assert refused(path) == f"{path} is truncated or not a PyTorch checkpoint"


@pytest.mark.parametrize("share", [0.0001, 0.001, 0.5, 0.999])
def test_a_truncated_safetensors_file(own, share):
    os.truncate(own, int(share * own.stat().st_size))
    assert refused(own) == f"{own} is truncated or not a safetensors file"


@pytest.mark.parametrize("suffix", [".ckpt", ".pt", ".bin", ".safetensors"])
def test_files_of_another_kind(tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    Image.new("RGB", (64, 64), "red").save(path, format="JPEG")
    assert "is truncated or not a" in refused(path)
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    assert "is truncated or not a" in refused(path)
    path.write_bytes(b"")
    assert refused(path) == f"{path} is empty"


@pytest.mark.parametrize("suffix", [".ckpt", ".safetensors"])
def test_random_bytes(tmp_path, suffix):
    path, generator = tmp_path / f"model{suffix}", random.Random(0)
    for size in (1, 2, 7, 8, 9, 100, 1000) * 20:
        path.write_bytes(generator.randbytes(size))
        refused(path)
        path.write_bytes(b"\x80\x02" + generator.randbytes(size))  # begins like a pickle
        refused(path)


@pytest.mark.parametrize("as_zip", [True, False], ids=["zip", "before torch 1.6"])
def test_a_few_wrong_bytes_in_a_torch_file(tmp_path, as_zip):
    """Either they do not matter, or one sentence says that the file is damaged."""
    path, generator = tmp_path / "model.ckpt", random.Random(0)
    torch.save({"temb.dense.0.weight": torch.ones(8, 8), "other": torch.ones(3)}, path,
               _use_new_zipfile_serialization=as_zip)  # fmt: skip
    whole = path.read_bytes()
    for _ in range(150):
        damaged = bytearray(whole)
        for _ in range(generator.choice([1, 5, 20])):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path.write_bytes(damaged)
        refused(path)  # at best it is a state dict with two foreign keys


class Bomb:
    """Unpickling it runs a command that leaves a file."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("suffix", [".ckpt", ".bin", ".pth"])
def test_code_in_a_pickle_is_not_run(ddpm, tmp_path, suffix):
    path, mark = tmp_path / f"model{suffix}", tmp_path / "it ran".replace(" ", "_")
    objects = (
        "holds Python objects beyond tensors, which are never loaded; save its state dict alone, or as safetensors"
    )
    for content in (Bomb(mark), ddpm | {"config": Bomb(mark)}, [ddpm, Bomb(mark)]):
        for as_zip in (True, False):
            torch.save(content, path, _use_new_zipfile_serialization=as_zip)
            assert refused(path) == f"{path} {objects}"
        path.write_bytes(pickle.dumps(content))
        refused(path)
    assert not mark.exists()
    pickle.loads(path.read_bytes())  # it would have: the test can fail
    assert mark.exists()


def test_a_whole_module_is_not_unpickled(tmp_path):
    torch.save(torch.nn.Linear(2, 2), tmp_path / "model.pt")
    assert "holds Python objects beyond tensors" in refused(tmp_path / "model.pt")


def test_a_network_of_another_family(tmp_path):
    with torch.device("meta"):
        meta = torchvision.models.resnet18().state_dict()
    # One stored number per tensor, seen in every element: the shapes without the bytes.
    torch.save({key: torch.zeros(()).expand(value.shape) for key, value in meta.items()}, tmp_path / "resnet.pt")
    sentence = refused(tmp_path / "resnet.pt")
    assert "its keys ('conv1.weight', 'bn1.weight', 'bn1.bias', …) belong to no known" in sentence


def test_a_file_of_another_part_alone(tmp_path):
    torch.save({"first_stage_model.encoder.conv_in.bias": torch.zeros(())}, tmp_path / "part.ckpt")
    assert refused(tmp_path / "part.ckpt").endswith("cannot be loaded: it holds no U-Net")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (torch.zeros(3), "holds a Tensor, not a state dict"),
        ([], "holds a list, not a state dict"),
        ({}, "is no state dict; it holds no tensors at its top level"),
        ({"model": {"conv_in.weight": torch.zeros(1)}}, "is no state dict; it holds no tensors at its top level"),
        (3, "holds a int, not a state dict"),
    ],
)
def test_a_torch_file_that_is_no_state_dict(tmp_path, content, sentence):
    torch.save(content, tmp_path / "model.ckpt")
    assert refused(tmp_path / "model.ckpt") == f"{tmp_path / 'model.ckpt'} {sentence}"


def damaged_states(state):
    """Every 23rd key missing, wrongly shaped, of integers; and one key too many."""
    for key in list(state)[::23]:
        yield key, {other: value for other, value in state.items() if other != key}
        yield key, state | {key: torch.zeros(2, *state[key].shape)}
        yield key, state | {key: torch.zeros(())}
        yield key, state | {key: torch.zeros(state[key].shape, dtype=torch.int8)}
    yield "foreign.weight", state | {"foreign.weight": torch.zeros(3)}


@pytest.mark.parametrize("given", [True, False], ids=["config", "no config"])
def test_every_kind_of_wrong_state_dict(ddpm, tmp_path, given):
    path = tmp_path / "model.ckpt"
    for _, state in damaged_states(ddpm):
        torch.save(state, path)
        refused(path, CONFIG if given else None)


def test_the_sentence_names_the_wrong_key(guided, tmp_path):
    path = tmp_path / "model.pt"
    for key, state in damaged_states(guided):
        torch.save(state, path)
        sentence = refused(path, OPENAI_CONFIG)
        assert repr(key) in sentence or "belong to no known" in sentence


def test_a_configuration_of_another_size_or_family(ddpm, tmp_path):
    path = tmp_path / "model.ckpt"
    torch.save(ddpm, path)
    sentence = refused(path, "cifar10")
    assert "but a network of its configuration needs" in sentence or "which a network of its configuration" in sentence
    assert "knows no such part as the configuration's" in refused(
        path, UNetConfig(resolution=32, channels=32, channel_mult=[1, 1], num_res_blocks=1, context_dim=24)
    )
    assert "knows no such part as the configuration's label" in refused(
        path, UNetConfig(resolution=32, channels=32, channel_mult=[1, 1], num_res_blocks=1, num_classes=10)
    )


@pytest.mark.parametrize("missing", ["conv_in", "conv_out", "mid.", "down.1.", "down.", "up.0", "temb.dense.1"])
def test_a_state_dict_without_a_part(ddpm, tmp_path, missing):
    torch.save({key: value for key, value in ddpm.items() if not key.startswith(missing)}, tmp_path / "model.ckpt")
    refused(tmp_path / "model.ckpt")


@pytest.mark.parametrize("missing", ["input_blocks.1.", "middle_block", "output_blocks", "out.", "time_embed"])
def test_a_state_dict_in_openai_names_without_a_part(guided, tmp_path, missing):
    torch.save({key: value for key, value in guided.items() if not key.startswith(missing)}, tmp_path / "model.pt")
    refused(tmp_path / "model.pt")
    refused(tmp_path / "model.pt", OPENAI_CONFIG)


def test_our_own_files_are_checked_as_strictly(own, tmp_path):
    metadata = {"format": "unet/1", "network": json.dumps({"resolution": 32, "channels": 32, "channel_mult": [1, 1],
                                                           "num_res_blocks": 1, "attention_levels": [1]})}  # fmt: skip
    weights, path = load_file(own), tmp_path / "changed.safetensors"
    for key, state in damaged_states(weights):
        save_file(state, path, metadata)
        assert repr(key) in refused(path)
    for network in ("", "{", "[]", "null", '{"channels": "many"}', '{"channels": 33}', '{"depth": 3}'):
        save_file(weights, path, metadata | {"network": network})
        refused(path)
    save_file(weights, path, metadata | {"training": "{"})
    assert "its metadata 'training' is not JSON" in refused(path)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"channel_mult": {}}, "its metadata: channel_mult must be a list of numbers, not {}"),
        ({"channel_mult": [1, [1]]}, "its metadata: channel_mult must be a list of numbers, not [1, [1]]"),
        ({"channel_mult": [1, math.nan]}, "channel_mult must hold finite numbers, not [1.0, nan]"),
        ({"attention_levels": {}}, "its metadata: attention_levels must be a list of integers, not {}"),
        ({"channels": "${x}"}, "its metadata: channels must be an integer, not '${x}'"),
    ],
)
def test_a_wrong_value_in_the_metadata_of_our_own_files_is_named(own, tmp_path, change, sentence):
    path, network = tmp_path / "changed.safetensors", asdict(CONFIG) | change
    save_file(load_file(own), path, {"format": "unet/1", "network": json.dumps(network)})
    assert refused(path) == f"{path} cannot be loaded: {sentence}"


@pytest.mark.filterwarnings("ignore:Validating sparse tensor invariants")
@pytest.mark.parametrize(
    ("tensor", "sentence"),
    [
        (torch.zeros(32).to_sparse(), "its 'conv_in.bias' is stored as torch.sparse_coo, but weights are dense"),
        (torch.zeros(32, device="meta"), "its 'conv_in.bias' is a tensor of the meta device, which has a shape but no"),
        (torch.zeros(32).cfloat(), "its 'conv_in.bias' is stored as torch.complex64, but weights are floating-point"),
    ],
)
def test_tensors_that_hold_no_plain_numbers(ddpm, tmp_path, tensor, sentence):
    torch.save(ddpm | {"conv_in.bias": tensor}, tmp_path / "model.ckpt")
    assert sentence in refused(tmp_path / "model.ckpt")


@pytest.mark.parametrize("given", ["", ".index", ".data-00000-of-00001", ".meta", "the folder"])
def test_checkpoints_of_tensorflow(tmp_path, given):
    """The authors' own files; converted ones are published."""
    prefix = tmp_path / "model.ckpt-790000"
    for suffix in (".index", ".data-00000-of-00001", ".meta"):
        prefix.with_name(prefix.name + suffix).write_bytes(b"no tensors for us")
    sentence = refused(tmp_path if given == "the folder" else f"{prefix}{given}")
    assert "is a checkpoint of TensorFlow, which is not read; the weights of Ho et al. are published" in sentence
    assert "ema_cifar10" in sentence


def test_a_file_beside_a_checkpoint_of_tensorflow_is_what_it_is(ddpm, tmp_path):
    torch.save(ddpm, tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt.index").write_bytes(b"")
    assert models.load(tmp_path / "model.ckpt").config == CONFIG


def test_folders_without_weights(tmp_path, diffusers_folder):
    assert "holds none of diffusion_pytorch_model.safetensors" in refused(tmp_path)
    (diffusers_folder / "diffusion_pytorch_model.safetensors").rename(tmp_path / "elsewhere.safetensors")
    assert "holds none of diffusion_pytorch_model.safetensors" in refused(diffusers_folder)


def test_a_diffusers_folder_with_a_wrong_config_json(diffusers_folder):
    path = diffusers_folder / "config.json"
    whole = json.loads(path.read_text())
    for content in ("", "{", "[]", "3"):
        path.write_text(content)
        with pytest.raises(InputError, match=r"config\.json"):
            models.load(diffusers_folder)
    wrong = [("attention_head_dim", "many"), ("attention_head_dim", 0), ("sample_size", "big"), ("sample_size", []),
             ("freq_shift", []), ("norm_eps", None), ("norm_eps", [1e-6]), ("norm_num_groups", [32]),
             ("norm_num_groups", True), ("downsample_padding", [0]), ("dropout", {})]  # fmt: skip
    for key, value in wrong:
        path.write_text(json.dumps(whole | {key: value}))
        for config in (None, CONFIG):
            with pytest.raises(InputError, match=r"cannot be loaded: ") as error:
                models.load(diffusers_folder, config)
            assert "\n" not in str(error.value)


def test_a_wrong_type_in_config_json_is_named_beside_a_configuration(diffusers_folder):
    path = diffusers_folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"norm_eps": [1e-6]}))
    assert refused(diffusers_folder, CONFIG).endswith("its config.json: norm_eps must be a number, not [1e-06]")


def test_a_damaged_file_in_a_diffusers_folder_is_named(diffusers_folder):
    weights = diffusers_folder / "diffusion_pytorch_model.safetensors"
    os.truncate(weights, 1000)
    assert f"{weights} is truncated or not a safetensors file" == refused(diffusers_folder)


def test_there_is_no_such_checkpoint(tmp_path):
    sentence = refused("ema_cifr10")
    assert sentence.startswith("there is no checkpoint ema_cifr10: neither a file or folder, nor a published name")
    assert "did you mean 'ema_cifar10'?" in sentence
    refused(tmp_path / "nowhere.ckpt")


def test_a_broken_link(tmp_path):
    (tmp_path / "model.ckpt").symlink_to(tmp_path / "gone.ckpt")
    refused(tmp_path / "model.ckpt")


def test_an_unreadable_file(own):
    own.chmod(0)
    if os.access(own, os.R_OK):
        pytest.skip("this user may read every file")
    assert refused(own) == f"{own} cannot be read (Permission denied)"


def test_a_pipeline_folder_without_its_unet(diffusers_folder, tmp_path):
    shutil.move(diffusers_folder, tmp_path / "pipeline" / "vae")
    assert "nor does its sub-folder unet" in refused(tmp_path / "pipeline")
