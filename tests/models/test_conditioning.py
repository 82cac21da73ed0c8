"""What the U-Net is told: class embeddings, and prompts through CLIP's text transformer and tokenizer."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from clip_files import clip_tensors, tiny_text, write_tokenizer
from transformers import CLIPTextConfig, CLIPTextModel

import models
from configs import InputError
from models import ConditioningConfig, PartsConfig, TextEncoder, text_encoder
from models.conditioning import ClassEmbedder, ClassesConfig, TextConfig
from models.text_encoder import byte_tokenizer, clip_tokenizer

TINY = TextConfig(vocab_size=516, dim=32, layers=2, heads=4, mlp_dim=64, length=10)


def test_a_class_is_a_context_of_one_token():
    embedder = ClassEmbedder(ClassesConfig(num_classes=11, dim=24, unconditional=10))
    context = embedder(torch.tensor([3, 0]))
    assert context.shape == (2, 1, 24)
    assert torch.equal(context[:, 0], embedder.embedding.weight[[3, 0]])
    assert torch.equal(embedder.unconditional(2), embedder(torch.tensor([10, 10])))


@pytest.mark.parametrize("label", [-1, 11])
def test_a_class_that_does_not_exist_is_refused(label):
    embedder = ClassEmbedder(ClassesConfig(num_classes=11, dim=24))
    with pytest.raises(InputError, match=rf"there is no class {label}; labels lie in 0..10"):
        embedder(torch.tensor([1, label]))


def test_without_an_unconditional_class_there_is_no_guidance():
    with pytest.raises(InputError, match="without an unconditional class"):
        ClassEmbedder(ClassesConfig(num_classes=11, dim=24)).unconditional(1)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: ConditioningConfig(), "exactly one of classes and text"),
        (lambda: ConditioningConfig(ClassesConfig(2), TextConfig()), "exactly one of classes and text"),
        (lambda: ClassesConfig(num_classes=10, unconditional=10), r"unconditional is 10, but labels lie in 0..9"),
        (lambda: TextConfig(dim=10, heads=4), "4 heads do not divide dim = 10"),
    ],
)
def test_impossible_conditioning_is_refused(build, sentence):
    with pytest.raises(InputError, match=sentence):
        build()


def load_text(tmp_path, tensors, config=None, **options):
    torch.save({f"cond_stage_model.{key}": value for key, value in tensors.items()}, tmp_path / "sd.ckpt")
    write_tokenizer(tmp_path / "tokenizer")
    config = None if config is None else ConditioningConfig(text=config)
    return models.load_conditioner(tmp_path / "sd.ckpt", config, **({"tokenizer": tmp_path / "tokenizer"} | options))


def test_text_encoder_equals_the_reference(golden):
    file = golden("clip_text_tiny")
    config = TextConfig(vocab_size=100, dim=32, layers=2, heads=4, mlp_dim=64)
    encoder = TextEncoder(config, byte_tokenizer(config)).requires_grad_(False)
    encoder.load_state_dict(text_encoder.weights(file.state_dict(), encoder))
    file.check("out", encoder.encode(torch.from_numpy(file["ids"])), atol=4e-6)


@pytest.mark.parametrize("prefix", ["transformer.text_model.", "transformer."])
def test_text_encoder_of_a_single_file_equals_transformers(tmp_path, prefix):
    reference = tiny_text(TINY)
    tensors = clip_tensors(reference, prefix)
    tensors[f"{prefix}embeddings.position_ids"] = torch.arange(TINY.length)[None]
    encoder = load_text(tmp_path, tensors, TINY)
    ids = encoder.tokenize(["a cat", ""])
    expected = reference(input_ids=ids).last_hidden_state
    torch.testing.assert_close(encoder(["a cat", ""]), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(encoder.unconditional(2), expected[1:].expand(2, -1, -1), atol=1e-6, rtol=0)
    assert not encoder.training
    assert encoder.config == TINY


def test_without_a_configuration_heads_are_64_wide(tmp_path):
    config = TextConfig(vocab_size=516, dim=128, layers=1, heads=2, mlp_dim=64, length=10)
    reference = tiny_text(config)
    encoder = load_text(tmp_path, clip_tensors(reference))
    assert encoder.config == config
    ids = encoder.tokenize(["a cat"])
    torch.testing.assert_close(encoder.encode(ids), reference(input_ids=ids).last_hidden_state, atol=1e-6, rtol=0)


def test_text_encoder_of_a_pipeline_brings_its_tokenizer_and_heads(tmp_path):
    reference = tiny_text(TINY)
    reference.save_pretrained(tmp_path / "text_encoder")
    write_tokenizer(tmp_path / "tokenizer")
    encoder = models.load_conditioner(tmp_path)
    assert encoder.config.heads == 4
    ids = encoder.tokenize(["a cat"])
    torch.testing.assert_close(encoder(["a cat"]), reference(input_ids=ids).last_hidden_state, atol=1e-6, rtol=0)


def test_a_text_encoder_with_another_activation_is_refused(tmp_path):
    tiny_text(TINY).save_pretrained(tmp_path / "text_encoder")
    path = tmp_path / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"hidden_act": "gelu"}))
    with pytest.raises(InputError, match=r"config.json has hidden_act = 'gelu'; only 'quick_gelu' is supported"):
        models.load_conditioner(tmp_path)


@pytest.mark.parametrize("value", [None, [4], 1.5, True, "many", 3])
@pytest.mark.parametrize("given", [True, False], ids=["config", "no config"])
def test_heads_in_config_json_that_cannot_be_are_refused(tmp_path, value, given):
    tiny_text(TINY).save_pretrained(tmp_path / "text_encoder")
    path = tmp_path / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"num_attention_heads": value}))
    sentence = "3 heads do not divide dim = 32" if value == 3 else "its config.json: heads must be an integer, not "
    with pytest.raises(InputError, match=sentence):
        models.load_conditioner(tmp_path, ConditioningConfig(text=TINY) if given else None)


def test_the_published_text_encoder_has_the_published_size():
    with torch.device("meta"):
        encoder = TextEncoder(TextConfig(), byte_tokenizer(TextConfig()))
    assert sum(parameter.numel() for parameter in encoder.parameters()) == 123_060_480
    assert len(list(encoder.parameters())) == 196


def test_prompts_are_cut_and_padded_with_the_end_token(tmp_path):
    tokenize = clip_tokenizer(write_tokenizer(tmp_path), TINY)
    start, end, cat, a = 514, 515, 513, 256 + ord("a") - ord("!")
    assert tokenize(["A  cat", "", "cat " * 20]).tolist() == [
        [start, a, cat, *[end] * 7],
        [start, *[end] * 9],
        [start, *[cat] * 8, end],
    ]


def test_the_stand_in_tokenizer_needs_no_files():
    ids = byte_tokenizer(TINY)(["ab", "", "é" * 20])
    assert ids.tolist()[:2] == [[514, 97, 98, *[515] * 7], [514, *[515] * 9]]
    assert ids[2, -1] == 515
    assert ids.max() < TINY.vocab_size


def test_random_text_encoders_run_without_a_vocabulary():
    config = PartsConfig(conditioning=ConditioningConfig(text=TINY))
    encoder = models.load_conditioner("random", config)
    assert encoder(["a cat", "a dog"]).shape == (2, 10, 32)
    assert torch.equal(encoder(["a cat"]), models.load_conditioner("random", config)(["a cat"]))


def test_a_tokenizer_of_another_network_is_refused(tmp_path):
    folder = write_tokenizer(tmp_path)
    with pytest.raises(InputError, match="has 516 tokens, but the text encoder knows 49408"):
        clip_tokenizer(folder, TextConfig())


def test_a_tokenizer_folder_without_a_vocabulary_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"must hold vocab.json and merges.txt"):
        models.load_conditioner("random", ConditioningConfig(text=TINY), tokenizer=tmp_path)


def test_no_network_for_the_tokenizer_says_what_to_get(tmp_path, monkeypatch):
    def offline(*args, **kwargs):
        raise ConnectionError("no network")

    monkeypatch.setattr("huggingface_hub.file_exists", offline)
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *args: None)
    tensors = clip_tensors(tiny_text(TINY))
    with pytest.raises(InputError, match=r"could not be downloaded \(no network\); get vocab.json and merges.txt from"):
        load_text(tmp_path, tensors, TINY, tokenizer=None)


def test_without_transformers_the_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError, match=r"pip install -e '\.\[sd\]'"):
        models.load_conditioner("random", ConditioningConfig(text=TINY))


@pytest.mark.parametrize("missing", ["embeddings.token_embedding.weight", "encoder.layers.1.mlp.fc2.bias"])
def test_a_text_encoder_that_lacks_a_weight_is_refused(tmp_path, missing):
    state = clip_tensors(tiny_text(TINY))
    del state[f"transformer.text_model.{missing}"]
    with pytest.raises(InputError, match=rf"sd.ckpt cannot be loaded: its? .*lacks .*{missing}"):
        load_text(tmp_path, state, TINY)


def test_a_given_configuration_must_agree(tmp_path):
    state = clip_tensors(tiny_text(TINY))
    with pytest.raises(InputError, match="its own vocab_size is 516, but the configuration says 49408"):
        load_text(tmp_path, state, TextConfig())


def test_transformers_network_is_the_one_we_configure():
    """Were the options of CLIPTextConfig renamed, ours would silently become its defaults."""
    config = text_encoder._transformer(TINY).config
    expected = CLIPTextModel(CLIPTextConfig(
        vocab_size=516, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=10,
    )).config  # fmt: skip
    for key in ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads",
                "max_position_embeddings", "hidden_act", "layer_norm_eps"):  # fmt: skip
        assert getattr(config, key) == getattr(expected, key)
