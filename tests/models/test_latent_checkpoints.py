"""Whole latent diffusion models out of single files and diffusers pipelines."""

from __future__ import annotations

import json
import math
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from clip_files import clip_tensors, tiny_text, write_tokenizer
from latent_files import HEADS, randn, reference, storages, with_moving_average
from public_names import OPENAI_OPTIONS, unet
from safetensors.torch import save_file

import models
from configs import InputError
from experiments.rows.rows import checkpoint_digest
from experiments.runs.run import SampleConfig
from models import ConditioningConfig, FirstStageConfig, PartsConfig, UNetConfig, reading
from models.conditioning import ClassesConfig, TextConfig

T = torch.tensor([3, 951])
TEXT = TextConfig(vocab_size=516, dim=24, layers=2, heads=4, mlp_dim=64, length=10)


def unet_config(channels):
    return UNetConfig(
        resolution=8, in_channels=channels, out_channels=channels, channels=32, channel_mult=[1, 2],
        attention_levels=[1], num_heads=HEADS, context_dim=24, timestep_embedding="cos_sin", norm_eps=1e-5,
        downsample_padding="symmetric",
    )  # fmt: skip


CLASS_MODEL = PartsConfig(
    unet_config(3),
    FirstStageConfig([1, 2], 3, codebook_size=50, channels=32),
    ConditioningConfig(classes=ClassesConfig(11, 24, unconditional=10)),
)
TEXT_MODEL = PartsConfig(
    unet_config(4), FirstStageConfig([1, 2], 4, channels=32, scale_factor=0.2), ConditioningConfig(text=TEXT)
)


@pytest.fixture(scope="module")
def class_model():
    return reference(vq=True)


@pytest.fixture(scope="module")
def text_model():
    return reference(vq=False)


@pytest.fixture(scope="module")
def class_tensors(class_model):
    """An LDM-4-G file: class embeddings, a moving average and raw weights."""
    embedding = {"cond_stage_model.embedding.weight": randn(11, 24)}
    return with_moving_average(class_model.tensors()) | embedding


@pytest.fixture(scope="module")
def text_tensors(text_model):
    """A Stable Diffusion file."""
    text = clip_tensors(tiny_text(TEXT), "cond_stage_model.transformer.text_model.")
    position_ids = {"cond_stage_model.transformer.text_model.embeddings.position_ids": torch.arange(10)[None]}
    return text_model.tensors() | text | position_ids


def write_lightning(tensors, path):
    torch.save({"epoch": 3, "global_step": 7, "state_dict": dict(tensors)}, path)
    return path


def assert_unet_equals(network, expected, context=None):
    x = randn(2, network.config.in_channels, 8, 8)
    context = randn(2, 5, 24) if context is None else context
    sample = expected(x, T, encoder_hidden_states=context).sample
    torch.testing.assert_close(network(x, T, context)[0], sample, atol=2e-5, rtol=0)


def test_a_class_conditional_model_out_of_one_file(tmp_path, class_model, class_tensors):
    parts = models.load_parts(write_lightning(class_tensors, tmp_path / "model.ckpt"), CLASS_MODEL)
    labels = torch.tensor([4, 10])
    context = parts.conditioner(labels)
    assert torch.equal(context[:, 0], class_tensors["cond_stage_model.embedding.weight"][labels])
    assert_unet_equals(parts.unet, class_model.unet, context)
    z = randn(2, 3, 4, 4)
    torch.testing.assert_close(parts.first_stage.decode(z), class_model.first_stage.decode(z).sample, atol=1e-4, rtol=0)
    for network in (parts.unet, parts.first_stage, parts.conditioner):
        assert not network.training
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert network.provenance.file == tmp_path / "model.ckpt"


def test_a_text_conditional_model_out_of_flat_safetensors(tmp_path, text_model, text_tensors):
    save_file(text_tensors, tmp_path / "sd.safetensors")
    parts = models.load_parts(
        tmp_path / "sd.safetensors", TEXT_MODEL, tokenizer=write_tokenizer(tmp_path / "tokenizer")
    )
    context = parts.conditioner(["a cat", ""])
    expected = tiny_text(TEXT)(input_ids=parts.conditioner.tokenize(["a cat", ""])).last_hidden_state
    torch.testing.assert_close(context, expected, atol=1e-6, rtol=0)
    assert_unet_equals(parts.unet, text_model.unet, context)
    z = randn(2, 4, 4, 4)
    torch.testing.assert_close(
        parts.first_stage.decode(0.2 * z), text_model.first_stage.decode(z).sample, atol=1e-5, rtol=0
    )


def test_a_pipeline_folder_says_all_of_its_architecture(tmp_path, text_model):
    text_model.unet.save_pretrained(tmp_path / "unet")
    text_model.first_stage.save_pretrained(tmp_path / "vae")
    tiny_text(TEXT).save_pretrained(tmp_path / "text_encoder")
    write_tokenizer(tmp_path / "tokenizer")
    parts = models.load_parts(tmp_path)
    assert parts.unet.config == unet_config(4)
    assert parts.first_stage.config.scale_factor == 0.18215
    assert parts.conditioner.config == replace(TEXT, tokenizer=parts.conditioner.config.tokenizer)
    assert_unet_equals(parts.unet, text_model.unet, parts.conditioner(["a cat", ""]))
    assert torch.equal(models.load(tmp_path).up[0].res.conv1.weight, parts.unet.up[0].res.conv1.weight)
    z = randn(2, 4, 4, 4)
    first_stage = models.load_first_stage(tmp_path)
    torch.testing.assert_close(
        first_stage.decode(0.18215 * z), text_model.first_stage.decode(z).sample, atol=1e-5, rtol=0
    )


def test_the_digest_of_a_pipeline_folder_is_that_of_all_its_files(tmp_path, text_model):
    """Images depend on the first stage as well; where their trajectories end does not."""
    text_model.unet.save_pretrained(tmp_path / "unet")
    tiny_text(TEXT).save_pretrained(tmp_path / "text_encoder")
    write_tokenizer(tmp_path / "tokenizer")
    made = []
    for scale in (1, 2):
        text_model.first_stage.post_quant_conv.weight.data.mul_(scale)
        text_model.first_stage.save_pretrained(tmp_path / "vae")
        made.append(models.load_parts(tmp_path))
        assert checkpoint_digest(SampleConfig(checkpoint=str(tmp_path))) == made[-1].sha256
    text_model.first_stage.post_quant_conv.weight.data.div_(2)
    first, second = made
    assert first.sha256 != second.sha256
    assert first.trajectory_sha256 == second.trajectory_sha256 != first.unet.provenance.sha256
    alone = models.Parts(models.random(unet_config(4)))
    alone.unet.provenance = models.Provenance("random", "none")
    assert (alone.sha256, alone.trajectory_sha256) == ("", "")


def test_an_unconditional_pipeline_folder(tmp_path, class_model):
    plain = unet([32, 64], [1], sample_size=8, attention_head_dim=16, **OPENAI_OPTIONS)
    plain.save_pretrained(tmp_path / "unet")
    class_model.first_stage.save_pretrained(tmp_path / "vqvae")
    parts = models.load_parts(tmp_path)
    x, z = randn(2, 3, 8, 8), randn(2, 3, 4, 4)
    torch.testing.assert_close(parts.unet(x, T)[0], plain(x, T).sample, atol=2e-5, rtol=0)
    torch.testing.assert_close(parts.first_stage.decode(z), class_model.first_stage.decode(z).sample, atol=1e-4, rtol=0)
    assert parts.conditioner is None


# --- moving averages


def test_the_moving_average_is_used_unless_raw_is_asked_for(tmp_path, class_model, class_tensors):
    path = write_lightning(class_tensors, tmp_path / "model.ckpt")
    assert_unet_equals(models.load(path, CLASS_MODEL), class_model.unet)
    raw = models.load(path, replace(CLASS_MODEL, weights="raw"))
    assert (raw.conv_out.weight == 0.01).all()


def test_without_a_moving_average_the_only_weights_are_used(tmp_path, text_model, text_tensors):
    """Files of the moving average alone keep its counters."""
    counters = {"model_ema.decay": torch.tensor(0.9999), "model_ema.num_updates": torch.tensor(7)}
    path = write_lightning(text_tensors | counters, tmp_path / "emaonly.ckpt")
    assert_unet_equals(models.load(path, TEXT_MODEL), text_model.unet)


def test_an_incomplete_moving_average_is_refused(tmp_path, class_tensors):
    broken = {key: value for key, value in class_tensors.items() if key != "model_ema.diffusion_modelout2weight"}
    with pytest.raises(
        InputError, match=r"its moving average is incomplete: it lacks 'model_ema.diffusion_modelout2we"
    ):
        models.load(write_lightning(broken, tmp_path / "model.ckpt"), CLASS_MODEL)


def test_names_of_the_reference(golden):
    """The reference's own state dict, of which the file keeps the order and the first names."""
    layout = golden("ldm_statedict_layout_tiny").config
    unet = golden("ldm_tiny_class").state_dict()
    assert layout["n_unet"] == len(unet)
    assert layout["first_unet"] == [f"model.diffusion_model.{key}" for key in list(unet)[:6]]
    tensors = {f"model.diffusion_model.{key}": value for key, value in unet.items()}
    averaged = with_moving_average(tensors)
    first = layout["model_ema_first"]
    assert set(first) <= set(averaged)
    assert layout["n_ema"] == sum(key.startswith("model_ema.") for key in averaged)
    found = models.part.moving_average(averaged)
    assert all(torch.equal(found[key], unet[key]) for key in unet)


# --- first stages and scale factors


def test_the_scale_factor_in_the_file_counts(tmp_path, text_tensors):
    path = write_lightning(text_tensors | {"scale_factor": torch.tensor(0.25)}, tmp_path / "model.ckpt")
    assert models.load_first_stage(path, TEXT_MODEL).config.scale_factor == 0.25
    assert models.load_first_stage(path).config.scale_factor == 0.25


@pytest.mark.parametrize("factor", [torch.tensor(math.nan), torch.tensor(1j), torch.zeros((), device="meta")])
def test_a_scale_factor_that_is_none_is_refused(tmp_path, text_tensors, factor):
    path = write_lightning(text_tensors | {"scale_factor": factor}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=r"model.ckpt cannot be loaded: .*scale_factor"):
        models.load_first_stage(path)


def write_vae(first_stage, folder, **changes):
    """diffusers' folder of a first stage; what is changed to `...` is left out of its config.json."""
    first_stage.save_pretrained(folder / "vae")
    path = folder / "vae" / "config.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))
    return folder


@pytest.mark.parametrize("value", [None, [1], True, "much", {}])
@pytest.mark.parametrize("given", [True, False], ids=["config", "no config"])
def test_a_scaling_factor_in_config_json_that_is_no_number_is_refused(tmp_path, text_model, value, given):
    write_vae(text_model.first_stage, tmp_path, scaling_factor=value)
    with pytest.raises(InputError, match=r"its config.json: scale_factor must be a number, not "):
        models.load_first_stage(tmp_path, TEXT_MODEL if given else None)


def test_numbers_in_config_json_may_be_written_as_texts(tmp_path, text_model):
    write_vae(text_model.first_stage, tmp_path, scaling_factor="0.18215")
    assert models.load_first_stage(tmp_path).config.scale_factor == 0.18215


@pytest.mark.parametrize(
    ("given", "stated", "factor"), [(0.5, ..., 0.5), (None, ..., 0.18215), (0.5, 0.25, 0.25), (None, 0.25, 0.25)]
)
def test_the_scale_factor_of_a_class_counts_where_nobody_says_another(tmp_path, text_model, given, stated, factor):
    write_vae(text_model.first_stage, tmp_path, scaling_factor=stated)
    config = given and FirstStageConfig([1, 2], 4, channels=32, scale_factor=given)
    assert models.load_first_stage(tmp_path, config).config.scale_factor == factor


def test_a_first_stage_of_wrong_shapes_is_refused(tmp_path, text_tensors):
    wrong = text_tensors | {"first_stage_model.encoder.conv_in.bias": torch.tensor(0.0)}
    with pytest.raises(InputError, match="do not have the shapes of the layout"):
        models.load_first_stage(write_lightning(wrong, tmp_path / "model.ckpt"))


def test_first_stages_of_their_own_come_with_losses(tmp_path, text_model, text_tensors):
    prefix = "first_stage_model."
    own = {key.removeprefix(prefix): value for key, value in text_tensors.items() if key.startswith(prefix)}
    losses = {"loss.logvar": torch.zeros(()), "loss.discriminator.main.0.weight": torch.zeros(2, 2)}
    network = models.load_first_stage(write_lightning(own | losses, tmp_path / "model.ckpt"))
    z = randn(2, 4, 4, 4)
    torch.testing.assert_close(network.decode(z), text_model.first_stage.decode(z).sample, atol=1e-5, rtol=0)
    assert network.provenance.layout == "CompVis first stage"


def test_a_known_unet_tells_the_scale_factor_of_its_first_stage(tmp_path, monkeypatch, text_tensors):
    path = write_lightning(text_tensors, tmp_path / "model.ckpt")
    monkeypatch.setattr("models.parts.settle", lambda tensors, config_json, known: (None, TEXT_MODEL))
    assert models.load_first_stage(path).config.scale_factor == 0.2
    other = replace(TEXT_MODEL, first_stage=replace(TEXT_MODEL.first_stage, latent_channels=16))
    monkeypatch.setattr("models.parts.settle", lambda tensors, config_json, known: (None, other))
    assert models.load_first_stage(path).config.scale_factor == 1.0


def test_a_given_first_stage_must_agree(tmp_path, text_tensors):
    path = write_lightning(text_tensors, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="its own latent_channels is 4, but the configuration says 8"):
        models.load_first_stage(path, replace(TEXT_MODEL.first_stage, latent_channels=8))


@pytest.mark.parametrize(
    "missing", ["quant_conv.weight", "encoder.mid.attn_1.q.weight", "decoder.up.0.block.2.conv2.bias"]
)
def test_a_first_stage_that_lacks_a_weight_is_refused(tmp_path, text_tensors, missing):
    broken = {key: value for key, value in text_tensors.items() if key != f"first_stage_model.{missing}"}
    with pytest.raises(InputError, match=f"model.ckpt cannot be loaded: it lacks '{missing}'"):
        models.load_first_stage(write_lightning(broken, tmp_path / "model.ckpt"))


def test_a_first_stage_with_a_weight_too_many_is_refused(tmp_path, text_tensors):
    more = text_tensors | {"first_stage_model.encoder.extra.weight": torch.zeros(3)}
    with pytest.raises(InputError, match=r"it holds 'encoder.extra.weight', for which"):
        models.load_first_stage(write_lightning(more, tmp_path / "model.ckpt"))


# --- parts that are not there


def test_a_unet_alone_has_no_other_parts(tmp_path):
    unet = models.random(UNetConfig(resolution=8, channels=32, channel_mult=[1, 2], attention_levels=[1]))
    models.save(unet, tmp_path / "model.safetensors")
    parts = models.load_parts(tmp_path / "model.safetensors")
    assert parts.unet.config == unet.config
    assert parts.first_stage is None
    assert parts.conditioner is None


@pytest.mark.parametrize(
    ("prefix", "name"), [("first_stage_model.", "first stage"), ("cond_stage_model.", "conditioner")]
)
def test_a_part_that_the_configuration_has_must_be_there(tmp_path, class_tensors, prefix, name):
    tensors = {key: value for key, value in class_tensors.items() if not key.startswith(prefix)}
    path = write_lightning(tensors, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=f"holds no {name}, which the configuration has"):
        models.load_parts(path, CLASS_MODEL)
    load = models.load_first_stage if name == "first stage" else models.load_conditioner
    with pytest.raises(InputError, match=f"it holds no {name}"):
        load(path, CLASS_MODEL)


def test_a_folder_without_the_part_says_what_it_lacks(tmp_path, text_model):
    text_model.unet.save_pretrained(tmp_path / "unet")
    with pytest.raises(InputError, match="nor does its sub-folder vae or vqvae"):
        models.load_first_stage(tmp_path)
    assert models.load_parts(tmp_path).first_stage is None


@pytest.mark.parametrize("which", ["text", "classes"])
def test_a_conditioner_of_the_other_kind_than_given_is_refused(tmp_path, class_tensors, text_tensors, which):
    tensors, config = (text_tensors, CLASS_MODEL) if which == "text" else (class_tensors, TEXT_MODEL)
    path = write_lightning(tensors, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match=f"its conditioner is one of {which}, but the configuration says "):
        models.load_conditioner(path, config.conditioning)


def test_a_conditioner_of_another_width_than_the_unet_takes_is_refused(tmp_path, class_tensors):
    wider = class_tensors | {"cond_stage_model.embedding.weight": randn(11, 32)}
    path = write_lightning(wider, tmp_path / "model.ckpt")
    sentence = "the conditioner makes contexts 32 wide, but the U-Net takes "
    with pytest.raises(InputError, match=f"model.ckpt cannot be loaded: {sentence}them 24 wide"):
        models.load_parts(path, CLASS_MODEL.network)
    network = replace(CLASS_MODEL.network, context_dim=None)
    conditioning = ConditioningConfig(classes=ClassesConfig(11, 32))
    with pytest.raises(InputError, match=f"{sentence}none"):
        models.load_parts("random", replace(CLASS_MODEL, network=network, conditioning=conditioning))


def test_random_parts_of_a_configuration():
    parts = models.load_parts("random", TEXT_MODEL)
    context = parts.conditioner(["a cat", "a dog"])
    eps, _ = parts.unet(randn(2, 4, 8, 8), T, context)
    assert parts.first_stage.decode(eps).shape == (2, 3, 16, 16)
    with pytest.raises(InputError, match="random weights need a configuration"):
        models.load_parts("random")
    with pytest.raises(InputError, match="the configuration has no first_stage"):
        models.load_first_stage("random", "cifar10")


# --- reading


def test_one_file_is_read_once_and_its_tensors_are_not_copied(tmp_path, monkeypatch, class_tensors):
    path = write_lightning(class_tensors, tmp_path / "model.ckpt")
    states, read = [], reading.read
    monkeypatch.setattr("models.reading.read", lambda *args: states.append(read(*args)) or states[-1])
    parts = models.load_parts(path, CLASS_MODEL)
    assert len(states) == 1
    stored = {tensor.untyped_storage().data_ptr() for tensor in states[0].tensors.values()}
    # Only the fused q, k and v of plain self-attention are put together anew.
    assert storages(parts.unet) <= stored
    assert storages(parts.conditioner) <= stored
    assert len(storages(parts.first_stage) - stored) == 4


class ModelCheckpoint:
    """What a callback of PyTorch Lightning looks like to a pickle."""

    def __init__(self, state):
        self.state = state


class AttributeDict(dict):
    """As Lightning's hyper-parameters."""


@pytest.fixture
def lightning(monkeypatch):
    """The module that such a pickle names, there only while it is written."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    module = types.ModuleType(name)
    for kind in (ModelCheckpoint, AttributeDict):
        setattr(module, kind.__name__, kind)
        monkeypatch.setattr(kind, "__module__", name)
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    return monkeypatch


def test_callbacks_of_lightning_are_read_as_empty_stand_ins(tmp_path, lightning, class_model, class_tensors):
    content = {
        "state_dict": class_tensors,
        "callbacks": {ModelCheckpoint: {"best_model_score": np.float64(0.5), "kth": ModelCheckpoint([1, 2])}},
    }
    torch.save(content, tmp_path / "model.ckpt")
    lightning.undo()
    assert "pytorch_lightning" not in sys.modules
    assert_unet_equals(models.load(tmp_path / "model.ckpt", CLASS_MODEL), class_model.unet)
    assert "pytorch_lightning" not in sys.modules
    assert "lightning" not in str(torch.serialization.get_safe_globals())


def test_foreign_dictionaries_are_read_as_plain_ones(tmp_path, lightning, class_model, class_tensors):
    hyper_parameters = AttributeDict(rate=1e-4, one=AttributeDict(width=3), callback=ModelCheckpoint(AttributeDict()))
    torch.save({"hyper_parameters": hyper_parameters, "state_dict": class_tensors}, tmp_path / "model.ckpt")
    lightning.undo()
    assert_unet_equals(models.load(tmp_path / "model.ckpt", CLASS_MODEL), class_model.unet)


class Malicious:
    def __reduce__(self):
        return print, ("run",)


def test_other_code_is_never_run(tmp_path, capsys, class_tensors):
    torch.save({"state_dict": class_tensors, "callbacks": Malicious()}, tmp_path / "model.ckpt")
    with pytest.raises(InputError, match="holds Python objects beyond tensors, which are never loaded"):
        models.load(tmp_path / "model.ckpt", CLASS_MODEL)
    assert capsys.readouterr().out == ""
