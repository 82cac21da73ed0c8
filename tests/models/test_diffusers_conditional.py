"""Stable Diffusion's U-Net out of diffusers folders, and its branches."""

from __future__ import annotations

import json

import pytest
import torch
from latent_files import randn, reference
from safetensors.torch import save_file

import models
from configs import InputError

T = torch.tensor([3, 951])


@pytest.fixture(scope="module")
def text_model():
    return reference(vq=False)


def assert_unet_equals(network, expected):
    x, context = randn(2, 4, 8, 8), randn(2, 5, 24)
    sample = expected(x, T, encoder_hidden_states=context).sample
    torch.testing.assert_close(network(x, T, context)[0], sample, atol=2e-5, rtol=0)


def test_linear_projections_are_the_same_network(tmp_path, text_model):
    state = text_model.unet.state_dict()
    flat = {key: value.flatten(1) if ".attentions." in key and "proj_" in key and value.ndim == 4 else value
            for key, value in state.items()}  # fmt: skip
    assert any(flat[key].ndim != state[key].ndim for key in state)
    (tmp_path / "unet").mkdir()
    text_model.unet.save_config(tmp_path / "unet")
    save_file(flat, tmp_path / "unet" / "diffusion_pytorch_model.safetensors")
    assert_unet_equals(models.load(tmp_path), text_model.unet)


def test_branches_are_diffusers_skips(tmp_path, text_model):
    """down[i] produces entry i of diffusers' residual samples; what enters up[i] is what diffusers joins with it."""
    text_model.unet.save_pretrained(tmp_path)
    network, theirs = models.load(tmp_path), text_model.unet
    entering, skips = [], []

    def record_entering(resnet, inputs):
        entering.append(inputs[0])

    hooks = [
        resnet.register_forward_pre_hook(record_entering) for block in theirs.up_blocks for resnet in block.resnets
    ]
    hooks += [theirs.conv_in.register_forward_hook(lambda module, inputs, output: skips.append(output))]
    hooks += [block.register_forward_hook(lambda module, inputs, output: skips.extend(output[1]))
              for block in theirs.down_blocks]  # fmt: skip
    x, context = randn(2, 4, 8, 8), randn(2, 5, 24)
    eps = theirs(x, T, encoder_hidden_states=context).sample
    for hook in hooks:
        hook.remove()
    branches = range(network.num_branches)
    _, taps = network(x, T, context, taps=branches)
    assert len(skips) == len(entering) == network.num_branches
    for i in branches:
        joined = entering[-1 - i]
        torch.testing.assert_close(taps[i], joined[:, : taps[i].shape[1]], atol=2e-5, rtol=0)
        torch.testing.assert_close(skips[i], joined[:, taps[i].shape[1] :], atol=0, rtol=0)
        partial, _ = network(x, T, context, branch=i, feature=joined[:, : taps[i].shape[1]])
        torch.testing.assert_close(partial, eps, atol=2e-5, rtol=0)


@pytest.mark.parametrize(
    ("told", "heads"),
    [({}, 8), ({"attention_head_dim": 4}, 4), ({"attention_head_dim": 4, "num_attention_heads": None}, 4),
     ({"attention_head_dim": 4, "num_attention_heads": 2}, 2)],
)  # fmt: skip
def test_a_config_json_says_how_many_heads_by_either_name_or_leaves_them_at_eight(tmp_path, text_model, told, heads):
    text_model.unet.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    rest = {key: value for key, value in config.items() if key not in ("attention_head_dim", "num_attention_heads")}
    path.write_text(json.dumps(rest | told))
    assert models.load(tmp_path).config.num_heads == heads


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"attention_head_dim": [4, 8]}, r"attention_head_dim = \[4, 8\]"),
        ({"addition_embed_type": "text"}, "addition_embed_type = 'text'; only None"),
        ({"only_cross_attention": True}, "only_cross_attention = True; only False"),
        ({"cross_attention_norm": "layer_norm"}, "cross_attention_norm"),
    ],
)
def test_conditional_unets_of_other_families_are_refused(tmp_path, text_model, change, sentence):
    text_model.unet.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=sentence):
        models.load(tmp_path)
