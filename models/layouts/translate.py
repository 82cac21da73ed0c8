"""Translation of a public state dict into our names: strict, and in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from configs import InputError
from models.config import UNetConfig
from models.unet import UNet

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How one code base names and stores the weights of a U-Net."""

    name: str
    # Do these keys look like this layout?
    recognises: Callable[[Tensors], bool]
    # What keys and shapes determine of UNetConfig, as a mapping of its fields.
    infer: Callable[[Tensors], dict[str, Any]]
    # Our module path -> theirs, for the modules that hold parameters or groups of them.
    modules: Callable[[UNetConfig, Tensors], dict[str, str]]
    # The last part of our path, below such a module -> theirs; several names mean tensors to be concatenated.
    leaves: Mapping[str, str | tuple[str, ...]]
    # Is a fused qkv interleaved per head (the "legacy" order)?
    fused_qkv: bool = False


def translate(tensors: Tensors, layout: Layout, config: UNetConfig, attention_order: str) -> dict[str, Tensor]:
    """The weights of `config` under our names, out of a state dict in `layout`.

    attention_order: "legacy" where fused qkv channels are interleaved per head, "new" where they are [q | k | v];
    matters for layouts with a fused qkv and more than one head.
    Raises InputError for a missing key, a key left over and a shape that differs.
    """
    with torch.device("meta"):
        wanted = UNet(config).state_dict()
    modules = layout.modules(config, tensors)
    weights, used = {}, set()
    for name, like in wanted.items():
        keys = _their_keys(name, modules, layout)
        missing = [key for key in keys if key not in tensors]
        if missing:
            raise InputError(f"the checkpoint lacks {missing[0]!r}, which this {layout.name} network needs ({name})")
        used.update(keys)
        value = torch.cat([tensors[key] for key in keys]) if len(keys) > 1 else tensors[keys[0]]
        if value.numel() != like.numel() or _squeezed(value) != _squeezed(like):
            raise InputError(f"{keys[0]!r} has shape {list(value.shape)}, but this network needs {list(like.shape)}")
        value = value.reshape(like.shape)
        if layout.fused_qkv and attention_order == "legacy" and ".qkv." in name:
            heads = config.heads(value.shape[0] // 3)
            value = rearrange(value, "(heads n d) ... -> (n heads d) ...", n=3, heads=heads)
        weights[name] = value
    left_over = [key for key in tensors if key not in used]
    if left_over:
        raise InputError(f"the checkpoint holds {left_over[0]!r} and {len(left_over) - 1} more keys that this "
                         f"{layout.name} network has no place for")  # fmt: skip
    return weights


def levels_and_blocks(config: UNetConfig) -> Iterator[tuple[str, str, str, int, int]]:
    """Our stages by level and block, as most code bases count them: (our module, "down" or "up", part, level, block).

    part: res, attn (named for every residual block, there or not) or resample; a change of resolution belongs to the
    level that it leaves. Blocks count in the order in which they run.
    """
    for index in range(config.num_branches):
        level, block, _, _ = config.branch(index)
        if block:
            yield f"down.{index}.res", "down", "res", level, block - 1
            yield f"down.{index}.attn", "down", "attn", level, block - 1
        elif level:
            yield f"down.{index}.resample", "down", "resample", level - 1, 0
        yield f"up.{index}.res", "up", "res", level, config.num_res_blocks - block
        yield f"up.{index}.attn", "up", "attn", level, config.num_res_blocks - block
        if block == 0 and level:
            yield f"up.{index}.resample", "up", "resample", level, 0


def _their_keys(name: str, modules: Mapping[str, str], layout: Layout) -> tuple[str, ...]:
    """Their keys for our parameter `name`: the longest known module, then the leaf, then weight or bias."""
    path, kind = name.rsplit(".", 1)
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        if module in modules:
            leaf = ".".join(parts[length:])
            if not leaf:
                return (f"{modules[module]}.{kind}",)
            theirs = layout.leaves[leaf]
            return tuple(
                f"{modules[module]}.{part}.{kind}" for part in ((theirs,) if isinstance(theirs, str) else theirs)
            )
    raise KeyError(name)


def _squeezed(tensor: Tensor) -> list[int]:
    """The shape without trailing ones: a 1x1 convolution may be stored as a linear layer."""
    shape = list(tensor.shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return shape


def count(tensors: Tensors, pattern: str) -> int:
    """How many of `pattern` with {} = 0, 1, 2 … begin a key."""
    number = 0
    while any(key.startswith(pattern.format(number)) for key in tensors):
        number += 1
    return number
