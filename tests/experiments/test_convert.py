"""scripts/convert.py: any layout in, our own out, the same network."""

import pytest
import torch
from diffusers import UNet2DModel

import models
from configs import InputError
from experiments.convert import ConvertConfig, convert


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    UNet2DModel(
        sample_size=16, block_out_channels=(32, 64), down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), norm_eps=1e-6, attention_head_dim=None, downsample_padding=0,
        flip_sin_to_cos=False, freq_shift=1, layers_per_block=2,
    ).save_pretrained(tmp_path / "public")  # fmt: skip
    return str(tmp_path / "public")


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("fp16", torch.float16)])
def test_the_converted_network_is_the_same(folder, tmp_path, precision, dtype):
    out = tmp_path / "ours.safetensors"
    assert "parameters" in convert(ConvertConfig(checkpoint=folder, precision=precision, out=str(out)))
    ours, theirs = models.load(out), models.load(folder)
    assert ours.provenance.layout == "native"
    assert ours.config == theirs.config
    for (name, a), (_, b) in zip(ours.state_dict().items(), theirs.state_dict().items(), strict=True):
        assert torch.equal(a, b.to(dtype).float()), name


def test_a_bundled_checkpoint_keeps_its_records(tmp_path):
    convert(ConvertConfig(checkpoint="mnist32", model="mnist32", out=str(tmp_path / "copy.safetensors")))
    copy = models.load(tmp_path / "copy.safetensors")
    assert copy.provenance.records["training"] == models.load("mnist32").provenance.records["training"]
    assert copy.provenance.records["diffusion"]["schedule"] == "linear"


def test_nothing_is_overwritten_and_only_safetensors_are_written(folder, tmp_path):
    (tmp_path / "there.safetensors").write_text("mine")
    with pytest.raises(InputError, match="exists already"):
        convert(ConvertConfig(checkpoint=folder, out=str(tmp_path / "there.safetensors")))
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        convert(ConvertConfig(checkpoint=folder, out=str(tmp_path / "weights.ckpt")))
    assert (tmp_path / "there.safetensors").read_text() == "mine"


def test_what_cannot_be_converted_shows_before_anything_is_loaded(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(models, "load", None)
    with pytest.raises(InputError, match=r"random weights need a model, e\.g\. model=cifar10"):
        convert(ConvertConfig(checkpoint="random", out=str(tmp_path / "a.safetensors")))
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"file/a\.safetensors"):
        convert(ConvertConfig(checkpoint=folder, out=str(tmp_path / "file" / "a.safetensors")))
