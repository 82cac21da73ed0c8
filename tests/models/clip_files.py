"""A tiny CLIP text transformer of the transformers package, and a tokenizer of 516 tokens."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel

from models.conditioning import TextConfig


def tiny_text(config: TextConfig) -> CLIPTextModel:
    """With reproducible random weights; no layer is left at 0 or 1."""
    network = CLIPTextModel(CLIPTextConfig(
        vocab_size=config.vocab_size, hidden_size=config.dim, intermediate_size=config.mlp_dim,
        num_hidden_layers=config.layers, num_attention_heads=config.heads, max_position_embeddings=config.length,
        bos_token_id=config.vocab_size - 2, eos_token_id=config.vocab_size - 1,
    ))  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return network.eval().requires_grad_(False)


def clip_tensors(network: CLIPTextModel, prefix: str = "transformer.text_model.") -> dict[str, Tensor]:
    """The weights under the names of Stable Diffusion files, whatever this version of transformers calls them."""
    return {f"{prefix}{key.removeprefix('text_model.')}": value for key, value in network.state_dict().items()}


def write_tokenizer(folder: Path) -> Path:
    """CLIP's alphabet of 256 bytes, alone and at the end of a word, with two merges that make up "cat"."""
    folder.mkdir(exist_ok=True)
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    alphabet = [chr(byte) for byte in shown] + [chr(256 + i) for i in range(256 - len(shown))]
    words = [*alphabet, *(f"{letter}</w>" for letter in alphabet), "ca", "cat</w>", "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\nc a\nca t</w>\n")
    return folder
