"""Prompts as cross-attention context: the CLIP text transformer and tokenizer of the `transformers` package."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from configs import InputError
from models.conditioning import TextConfig
from models.layouts import Tensors, pick

# Prompts -> token ids (B, length) int64.
Tokenize = Callable[[Sequence[str]], Tensor]


class TextEncoder(nn.Module):
    """Prompts -> the last hidden state after the final layer norm, as Stable Diffusion v1 uses it.

    Attention is causal without a padding mask: the padding after a prompt is part of what the U-Net sees.
    """

    def __init__(self, config: TextConfig, tokenize: Tokenize) -> None:
        super().__init__()
        self.config = config
        self.tokenize = tokenize
        self.transformer = _transformer(config)

    def forward(self, prompts: Sequence[str]) -> Tensor:
        """B prompts -> (B, length, dim)."""
        return self.encode(self.tokenize(prompts))

    def encode(self, ids: Tensor) -> Tensor:
        """Token ids (B, length) int64 -> (B, length, dim)."""
        device = self.transformer.get_input_embeddings().weight.device
        return self.transformer(input_ids=ids.to(device)).last_hidden_state

    def unconditional(self, count: int, prompt: str = "") -> Tensor:
        """The context (count, length, dim) of the prompt that guidance leads away from: the empty one."""
        return self([prompt]).expand(count, -1, -1)


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise InputError("prompts need the transformers package; install it with pip install -e '.[sd]'") from error
    return transformers


def _transformer(config: TextConfig) -> nn.Module:
    """transformers' own network. Built on the meta device it keeps what it computes instead of reading it."""
    transformers = _transformers()
    network = transformers.CLIPTextModel(
        transformers.CLIPTextConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.dim,
            intermediate_size=config.mlp_dim,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            max_position_embeddings=config.length,
            hidden_act="quick_gelu",  # x·sigmoid(1.702 x)
            layer_norm_eps=1e-5,
            bos_token_id=config.vocab_size - 2,
            eos_token_id=config.vocab_size - 1,
        )
    )
    for module in network.modules():
        if "position_ids" in module._buffers:  # no weight, hence in no file: 0 … length - 1
            module.position_ids = torch.arange(config.length, device="cpu")[None]
    return network


def infer(tensors: Tensors) -> dict[str, int]:
    """What keys and shapes determine of TextConfig. Raises InputError for another text encoder than CLIP's."""
    bare = _bare_tensors(tensors)
    try:
        vocab_size, dim = bare["embeddings.token_embedding.weight"].shape
        mlp_dim = len(bare["encoder.layers.0.mlp.fc1.bias"])
        length = len(bare["embeddings.position_embedding.weight"])
    except KeyError as error:
        raise InputError(f"its text encoder lacks {error}, which every text encoder of CLIP has") from error
    except (ValueError, TypeError) as error:
        raise InputError("its text encoder does not have the shapes of CLIP's") from error
    layers = {key.split(".")[2] for key in bare if key.startswith("encoder.layers.")}
    return {"vocab_size": vocab_size, "dim": dim, "mlp_dim": mlp_dim, "length": length, "layers": len(layers)}


def stated(config_json: Mapping[str, Any]) -> dict[str, int]:
    """What a config.json beside the weights says beyond them. Raises InputError for a text encoder unlike CLIP's."""
    for key, value in {"hidden_act": "quick_gelu", "layer_norm_eps": 1e-5}.items():
        if config_json.get(key, value) != value:
            raise InputError(f"its config.json has {key} = {config_json[key]!r}; only {value!r} is supported")
    return {"heads": config_json["num_attention_heads"]} if "num_attention_heads" in config_json else {}


def weights(tensors: Tensors, network: TextEncoder) -> dict[str, Tensor]:
    """The weights of `network`. Raises InputError for a missing key, a key left over and a shape that differs."""
    keys = {name: (_bare(name),) for name in network.state_dict()}
    return pick(_bare_tensors(tensors), keys, network, "CLIP text encoder")


def _bare_tensors(tensors: Tensors) -> dict[str, Tensor]:
    """Without the position ids that some files hold."""
    bare = {_bare(key): value for key, value in tensors.items()}
    return {key: value for key, value in bare.items() if key != "embeddings.position_ids"}


def _bare(key: str) -> str:
    """Without the prefixes that differ between files and between versions of transformers."""
    return key.removeprefix("transformer.").removeprefix("text_model.")


def clip_tokenizer(folder: Path, config: TextConfig) -> Tokenize:
    """CLIP's byte-pair encoding: start token, text in lower case, end token; cut or padded with end tokens.

    folder: with vocab.json and merges.txt. Raises InputError where these are not readable or of another network.
    """
    try:
        tokenizer = _transformers().CLIPTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise InputError(f"{folder} holds no readable vocab.json and merges.txt ({error})") from error
    if len(tokenizer) != config.vocab_size:
        raise InputError(f"the tokenizer {folder} has {len(tokenizer)} tokens, but the text encoder knows "
                         f"{config.vocab_size}")  # fmt: skip

    def tokenize(prompts: Sequence[str]) -> Tensor:
        encoded = tokenizer(list(prompts), padding="max_length", truncation=True, max_length=config.length)
        return torch.tensor(encoded["input_ids"])

    return tokenize


def byte_tokenizer(config: TextConfig) -> Tokenize:
    """A stand-in for networks with random weights, where no vocabulary is at hand: one token for each UTF-8 byte,
    between the last two tokens of the vocabulary as start and end, padded with the end. It means nothing to trained
    weights."""
    start, end = config.vocab_size - 2, config.vocab_size - 1

    def tokenize(prompts: Sequence[str]) -> Tensor:
        ids = torch.full((len(prompts), config.length), end)
        for row, prompt in zip(ids, prompts, strict=True):
            content = [byte % start for byte in prompt.encode()][: config.length - 2]
            row[: len(content) + 1] = torch.tensor([start, *content])
        return ids

    return tokenize
