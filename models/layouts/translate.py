"""Translation of a public state dict into our names: strict, and in one place."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn

from configs import InputError
from models.config import UNetConfig

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How one code base names and stores the weights of a U-Net or of a first stage."""

    name: str
    # Do these keys look like this layout?
    recognises: Callable[[Tensors], bool]
    # What keys and shapes determine of the network's configuration, as a mapping of its fields.
    infer: Callable[[Tensors], dict[str, Any]]
    # Our module path -> theirs, for the modules that hold parameters or groups of them.
    modules: Callable[[Any], dict[str, str]]
    # The last part of our path, below such a module -> theirs; several names mean tensors to be concatenated.
    leaves: Mapping[str, str | tuple[str, ...]]
    # What a config.json beside the weights says, likewise.
    stated: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda config_json: {}
    # Is there a fused qkv, whose channels may be interleaved per head (the "legacy" order)?
    fused_qkv: bool = False


def translate(
    tensors: Tensors, layout: Layout, network: nn.Module, attention_order: str = "legacy"
) -> dict[str, Tensor]:
    """The weights of `network` under our names, out of a state dict in `layout`.

    network: only its names, shapes and configuration are looked at; it may be on the meta device.
    attention_order: "legacy" where fused qkv channels are interleaved per head, "new" where they are [q | k | v];
    matters for layouts with a fused qkv and more than one head.
    Raises InputError for a missing key, a key left over and a shape that differs.
    """
    modules = layout.modules(network.config)
    keys = {name: their_keys(name, modules, layout) for name in network.state_dict()}
    weights = pick(tensors, keys, network, layout.name)
    if layout.fused_qkv and attention_order == "legacy":
        for name in [name for name in weights if ".qkv." in name]:
            heads = network.config.heads(len(weights[name]) // 3)
            weights[name] = rearrange(weights[name], "(heads n d) ... -> (n heads d) ...", n=3, heads=heads)
    return weights


def pick(tensors: Tensors, keys: Mapping[str, tuple[str, ...]], network: nn.Module, layout: str) -> dict[str, Tensor]:
    """Our name -> the tensor (or the concatenation of those) under their `keys`, as `network` needs it.

    Raises InputError for a missing key, a key left over, and a tensor of the wrong shape or without dense real numbers.
    """
    weights, used = {}, set()
    for name, like in network.state_dict().items():
        shape = (len(like) // len(keys[name]), *like.shape[1:])
        parts = [_one(tensors, key, shape, layout) for key in keys[name]]
        weights[name] = torch.cat(parts) if len(parts) > 1 else parts[0]
        used.update(keys[name])
    left_over = [key for key in tensors if key not in used]
    if left_over:
        others = f" and {len(left_over) - 1} others" if len(left_over) > 1 else ""
        raise InputError(f"it holds {left_over[0]!r}{others}, for which a network of its configuration has no place")
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


def their_keys(name: str, modules: Mapping[str, str], layout: Layout) -> tuple[str, ...]:
    """Their keys for our parameter `name`: the longest known module, then the leaf, then weight or bias."""
    path, kind = name.rsplit(".", 1)
    parts = path.split(".")
    for length in range(len(parts), 0, -1):
        module, leaf = ".".join(parts[:length]), ".".join(parts[length:])
        if module in modules:
            if not leaf:
                return (f"{modules[module]}.{kind}",)
            if leaf in layout.leaves:
                theirs = layout.leaves[leaf]
                theirs = (theirs,) if isinstance(theirs, str) else theirs
                return tuple(f"{modules[module]}.{part}.{kind}" for part in theirs)
    raise InputError(f"it has the layout {layout.name}, which knows no such part as the configuration's {path}")


def _one(tensors: Tensors, key: str, shape: Sequence[int], layout: str) -> Tensor:
    """The tensor under `key`; a 1x1 convolution may be stored as a linear layer, so trailing ones do not count."""
    if key not in tensors:
        raise InputError(f"it lacks {key!r}, which a network of its configuration has in the layout {layout}")
    tensor = tensors[key]
    check_readable(key, tensor)
    if not tensor.is_floating_point():
        raise InputError(f"its {key!r} is stored as {tensor.dtype}, but weights are floating-point numbers")
    if _squeezed(tensor.shape) != _squeezed(shape):
        raise InputError(f"its {key!r} has shape {list(tensor.shape)}, but a network of its configuration needs "
                         f"{list(shape)}")  # fmt: skip
    return tensor.reshape(shape)


def check_readable(key: str, tensor: Tensor) -> None:
    """Raises InputError for a tensor that has no numbers, or has them in another way than one after the other."""
    if tensor.is_meta:
        raise InputError(f"its {key!r} is a tensor of the meta device, which has a shape but no numbers")
    if tensor.layout != torch.strided:
        raise InputError(f"its {key!r} is stored as {tensor.layout}, but weights are dense tensors")


def _squeezed(shape: Sequence[int]) -> list[int]:
    shape = list(shape)
    while len(shape) > 1 and shape[-1] == 1:
        shape.pop()
    return shape


def count(tensors: Tensors, pattern: str) -> int:
    """How many of `pattern` with {} = 0, 1, 2 … begin a key."""
    number = 0
    while any(key.startswith(pattern.format(number)) for key in tensors):
        number += 1
    return number
