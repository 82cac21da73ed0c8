"""Single blocks equal the reference implementations'; at a hundredth of the input, where a wrong eps or GELU shows."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn import functional as F

from models.attention import SelfAttention, SpatialTransformer
from models.blocks import Downsample, ResBlock, Upsample
from models.config import FirstStageConfig, UNetConfig
from models.timesteps import timestep_embedding

ATOL = 8e-6  # four times what the reference moves by when it sums in another order

DDPM_RES = {"temb_proj": "embed", "nin_shortcut": "shortcut"}
OPENAI_RES = {"in_layers.0": "norm1", "in_layers.2": "conv1", "emb_layers.1": "embed", "out_layers.0": "norm2",
              "out_layers.3": "conv2", "skip_connection": "shortcut"}  # fmt: skip


def config(eps, **options):
    """A configuration whose timestep embedding is 128 wide, as the golden blocks'."""
    return UNetConfig(resolution=8, channels=32, channel_mult=[1], norm_eps=eps, **options)


def weights(blocks, tag, renamed):
    """The golden weights of the block `tag` under our names."""
    record = blocks.config[tag]
    filled = blocks.io.fill(record["state"], record["norm_keys"], prefix=f"{tag}.")
    state = {}
    for key, value in filled.items():
        for theirs, ours in renamed.items():
            key = key.replace(theirs, ours)
        state[key] = torch.from_numpy(value)
    return state


def fused(state):
    """Separate q, k, v as one qkv in our order [q | k | v]."""
    state["qkv.weight"] = torch.cat([state.pop(f"{name}.weight") for name in "qkv"])
    state["qkv.bias"] = torch.cat([state.pop(f"{name}.bias") for name in "qkv"])
    return state


def flattened(state, order, heads):
    """A fused 1-d qkv as ours: 2-d convolutions, and [q | k | v] where their channels go head by head."""
    state = {key: value[..., None] if value.ndim == 3 else value for key, value in state.items()}
    if order == "legacy":
        for key in ("qkv.weight", "qkv.bias"):
            by_head = state[key].unflatten(0, (heads, 3, -1))
            state[key] = by_head.transpose(0, 1).flatten(0, 2)
    return state


def resblock(blocks, tag):
    eps, renamed = (1e-6, DDPM_RES) if tag == "ddim_resblock" else (1e-5, OPENAI_RES)
    state = weights(blocks, tag, renamed)
    resample = tag.rsplit("_", 1)[-1] if tag.endswith(("_up", "_down")) else None
    width = len(state["conv1.weight"])
    scale_shift = len(state["embed.bias"]) == 2 * width
    block = ResBlock(config(eps, scale_shift_norm=scale_shift), state["conv1.weight"].shape[1], width, resample)
    block.load_state_dict(state)
    return block


@torch.no_grad()
def check(blocks, tag, block, *inputs):
    x = blocks.tensor(f"{tag}_x")
    for scale in ("1", "0.01"):
        blocks.check(f"{tag}_out_scale{scale}", block(x * float(scale), *inputs), ATOL)


@pytest.mark.parametrize(
    "tag", ["ddim_resblock", "ldm_resblock", "ldm_resblock_ss", "ldm_resblock_up", "ldm_resblock_down"]
)
def test_residual_block(golden, tag):
    blocks = golden("modules")
    emb = F.silu(blocks.tensor(f"{tag}_emb"))  # the references apply the SiLU inside every block
    check(blocks, tag, resblock(blocks, tag), emb)


@pytest.mark.parametrize(("tag", "wrong"), [("ddim_resblock", 1e-5), ("ldm_resblock", 1e-6)])
def test_a_wrong_eps_of_a_residual_block_would_be_noticed(golden, tag, wrong):
    blocks = golden("modules")
    block = resblock(blocks, tag)
    block.norm1.eps = wrong
    with pytest.raises(AssertionError, match="max abs diff"):
        check(blocks, tag, block, F.silu(blocks.tensor(f"{tag}_emb")))


def test_residual_block_of_a_first_stage_has_no_embedding(golden):
    blocks = golden("modules")
    block = ResBlock(FirstStageConfig(channel_mult=[1], latent_channels=3), 64, 32)
    block.load_state_dict(weights(blocks, "ae_resblock", DDPM_RES))
    check(blocks, "ae_resblock", block)


@pytest.mark.parametrize("tag", ["ddim_attn", "ae_attn"])
def test_attention_of_ddpm(golden, tag):
    blocks = golden("modules")
    block = SelfAttention(64, heads=1, eps=1e-6)
    block.load_state_dict(fused(weights(blocks, tag, {"proj_out": "proj"})))
    check(blocks, tag, block)


def openai_attention(blocks, tag, order):
    block = SelfAttention(64, heads=4, eps=1e-5)
    block.load_state_dict(flattened(weights(blocks, tag, {"proj_out": "proj"}), order, heads=4))
    return block


@pytest.mark.parametrize("order", ["legacy", "new"])
def test_attention_of_guided_diffusion_in_both_orders(golden, order):
    blocks = golden("modules")
    check(blocks, f"ldm_attn_{order}", openai_attention(blocks, f"ldm_attn_{order}", order))


def test_a_wrong_attention_order_would_be_noticed_in_one_block(golden):
    blocks = golden("modules")
    block = openai_attention(blocks, "ldm_attn_new", "legacy")
    with pytest.raises(AssertionError, match="max abs diff"):
        check(blocks, "ldm_attn_new", block)


def spatial_transformer(blocks, tag, context_dim, heads=4):
    renamed = {"ff.net.0.proj": "ff.proj_in", "ff.net.2": "ff.proj_out", "to_out.0": "to_out",
               "transformer_blocks": "blocks"}  # fmt: skip
    state = weights(blocks, tag, renamed)
    depth = 1 + max(int(key.split(".")[1]) for key in state if key.startswith("blocks."))
    block = SpatialTransformer(64, context_dim, heads, depth)
    block.load_state_dict(state)
    return block


def test_spatial_transformer(golden):
    blocks = golden("modules")
    block = spatial_transformer(blocks, "ldm_spatial_tf", 24)
    check(blocks, "ldm_spatial_tf", block, blocks.tensor("ldm_spatial_tf_context"))


def test_spatial_transformer_without_a_context_attends_to_itself(golden):
    blocks = golden("modules")
    block = spatial_transformer(blocks, "ldm_spatial_tf_nocontext", 64, heads=1)
    check(blocks, "ldm_spatial_tf_nocontext", block, None)


def test_the_approximate_gelu_would_be_noticed_in_one_transformer(golden, monkeypatch):
    blocks = golden("modules")
    exact = F.gelu
    monkeypatch.setattr(F, "gelu", lambda gate: exact(gate, approximate="tanh"))
    block = spatial_transformer(blocks, "ldm_spatial_tf", 24)
    with pytest.raises(AssertionError, match="max abs diff"):
        check(blocks, "ldm_spatial_tf", block, blocks.tensor("ldm_spatial_tf_context"))


@pytest.mark.parametrize(
    ("tag", "block"),
    [
        ("ddim_down", Downsample(32, "asymmetric")),  # of an odd height, where either end could be padded
        ("ldm_down", Downsample(32, "symmetric")),
        ("ddim_up", Upsample(32)),
        ("ldm_up", Upsample(32)),
    ],
)
def test_change_of_resolution(golden, tag, block):
    blocks = golden("modules")
    block.load_state_dict(weights(blocks, tag, {"op.": "conv."}))
    check(blocks, tag, block)


# float32's exp differs between processors by one unit in the last place: 6e-8 of a frequency below 1. Times t = 999
# that is an angle of 6e-5, and angles of this size are themselves rounded to multiples of 6e-5.
TIMESTEP_ATOL = 1e-4


@pytest.mark.parametrize("dim", [32, 128])
def test_timestep_embedding_of_ddpm(golden, dim):
    blocks = golden("modules")
    embedded = timestep_embedding(torch.from_numpy(blocks["temb_t"]), dim, "sin_cos")
    blocks.check(f"temb_ddim_dim{dim}", embedded, TIMESTEP_ATOL)


@pytest.mark.parametrize("dim", [32, 192, 224, 256, 320])
def test_timestep_embedding_of_latent_diffusion(golden, dim):
    blocks = golden("modules")
    embedded = timestep_embedding(torch.from_numpy(blocks["temb_t"]), dim, "cos_sin")
    blocks.check(f"temb_ldm_dim{dim}", embedded, TIMESTEP_ATOL)


def ermongroup(t, dim):
    """As ermongroup/ddim writes it: the negated step times the index."""
    step = math.log(10000) / (dim // 2 - 1)
    angles = t.float()[:, None] * torch.exp(torch.arange(dim // 2, dtype=torch.float32) * -step)[None, :]
    return torch.cat([torch.sin(angles), torch.cos(angles)], dim=1)


def compvis(t, dim):
    """As CompVis/latent-diffusion writes it: -ln(10000) times the index, over their number."""
    half = dim // 2
    frequencies = torch.exp(-math.log(10000) * torch.arange(start=0, end=half, dtype=torch.float32) / half)
    angles = t[:, None].float() * frequencies[None]
    return torch.cat([torch.cos(angles), torch.sin(angles)], dim=-1)


@pytest.mark.parametrize("dim", [32, 128, 192, 224, 256, 320])
@pytest.mark.parametrize(("order", "published"), [("sin_cos", ermongroup), ("cos_sin", compvis)])
def test_the_order_of_products_in_timestep_embeddings_is_the_published_one(order, published, dim):
    """Bit for bit, on whatever processor: another order changes less than the goldens' tolerance."""
    t = torch.arange(1000)
    assert torch.equal(timestep_embedding(t, dim, order), published(t, dim))


def test_timestep_embedding_by_its_formula():
    t, dim, half = torch.tensor([0.0, 1.0, 17.5, 999.0]), 64, 32
    for order, last in (("sin_cos", half - 1), ("cos_sin", half)):
        angles = t.double()[:, None] * 10000.0 ** (-torch.arange(half).double() / last)
        sin, cos = angles.sin(), angles.cos()
        parts = (sin, cos) if order == "sin_cos" else (cos, sin)
        expected = torch.cat(parts, dim=1).float()
        torch.testing.assert_close(timestep_embedding(t, dim, order), expected, atol=1e-4, rtol=0)


def test_an_odd_timestep_embedding_ends_in_a_zero():
    assert timestep_embedding(torch.tensor([5]), 33, "sin_cos")[0, -1] == 0
