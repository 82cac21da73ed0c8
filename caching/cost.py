"""What passes and plans cost, in multiply-accumulate operations (MACs), computed outside the network."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from caching.plan import NULL, Depth, Plan
from configs import InputError
from models import UNet, UNetConfig
from models.attention import Attend
from models.split import SplitConsumer, whole_groups


@dataclass(frozen=True)
class Macs:
    """Operations of one pass for one sample, by what does them."""

    layers: int = 0  # convolutions and linear layers
    layer_norms: int = 0
    group_norms: int = 0
    attention: int = 0  # the two matrix products q kᵀ and (weights) v

    def __add__(self, other: Macs) -> Macs:
        return Macs(*(a + b for a, b in zip(self.parts, other.parts, strict=True)))

    def __sub__(self, other: Macs) -> Macs:
        return Macs(*(a - b for a, b in zip(self.parts, other.parts, strict=True)))

    @property
    def parts(self) -> tuple[int, int, int, int]:
        return self.layers, self.layer_norms, self.group_norms, self.attention

    def paper(self, group_norms: bool = True) -> int:
        """Counted as in the paper's tables: layers and normalisations, without attention products.

        group_norms: False for CompVis networks, whose own GroupNorm class the paper's counter does not know.
        """
        return self.layers + self.layer_norms + (self.group_norms if group_norms else 0)

    @property
    def total(self) -> int:
        """Layers and attention products: what a device has to multiply."""
        return self.layers + self.attention


@dataclass(frozen=True)
class PassCosts:
    """What a full pass costs, and a partial pass at each branch."""

    full: Macs
    partial: tuple[Macs, ...]
    kept: tuple[Macs, ...]  # what a partial pass does on the cached feature alone, which a split network does not

    @property
    def split(self) -> PassCosts:
        """The costs where concat convolutions are split (models/split.py); what composing the outermost shortcut saves
        is left out, which depends on the device."""
        partial = tuple(passed - kept for passed, kept in zip(self.partial, self.kept, strict=True))
        return replace(self, partial=partial, kept=(Macs(),) * len(partial))

    def of(self, depth: Depth) -> Macs:
        """The cost of one evaluation; a null step's is none."""
        if depth == NULL:
            return Macs()
        return self.full if depth is None else self.partial[depth]

    def average(self, plan: Plan, count: Callable[[Macs], int]) -> float:
        """MACs per network evaluation, averaged over `plan`: (k·full + (T - k)·partial)/T for one branch.

        count: which MACs, e.g. Macs.paper.
        """
        return sum(times * count(self.of(depth)) for depth, times in Counter(plan).items()) / len(plan)

    def speedup(self, plan: Plan) -> float:
        """How much faster `plan` would run than full passes if time were proportional to MACs (attention included)."""
        return self.full.total / self.average(plan, lambda macs: macs.total)


def pass_costs(config: UNetConfig, size: Sequence[int] | None = None, context_length: int = 1) -> PassCosts:
    """Counts the passes of a network for one sample, without weights and without computing anything.

    size: (H, W) of the input; None is the configuration's resolution. context_length: tokens of the context.

    The counting rule is the one behind the paper's figures: multiplications of every convolution with one addition of
    its bias per output, of every linear layer with its bias once, and two operations per normalised element.

    Raises InputError for a size that cannot be halved as often as the network does.
    """
    height, width = size or (config.resolution, config.resolution)
    multiple = 2 ** (config.num_levels - 1)
    if any(side < multiple or side % multiple for side in (height, width)):
        raise InputError(f"an input of {height}x{width} is no multiple of {multiple}, which this network needs")
    with torch.device("meta"):
        network = UNet(config).eval()
        x, t = torch.empty(1, config.in_channels, height, width), torch.empty(1)
        cond: Tensor | None = None
        if config.context_dim is not None:
            cond = torch.empty(1, context_length, config.context_dim)
        elif config.num_classes is not None:
            cond = torch.empty(1, dtype=torch.long)
    by_stage: dict[str, Macs] = defaultdict(Macs)
    _watch(network, by_stage, _stage)
    with torch.no_grad():
        network(x, t, cond)

    partial, outside = [], by_stage["ends"]
    for branch in range(config.num_branches):
        outside = outside + by_stage[f"down.{branch}"] + by_stage[f"up.{branch}"]
        partial.append(outside)
    kept = tuple(_kept(network, branch, height, width) for branch in range(config.num_branches))
    return PassCosts(full=outside + by_stage["middle"], partial=tuple(partial), kept=kept)


def _kept(network: UNet, branch: int, height: int, width: int) -> Macs:
    """What up[branch] does on the cached feature alone, for an input of height x width."""
    level, _, _, entering = network.config.branch(branch)
    if not whole_groups(network.up[branch].res.norm1, entering):
        return Macs()
    keep = SplitConsumer(network.up[branch], entering).keep
    counted: dict[str, Macs] = defaultdict(Macs)
    _watch(keep, counted, lambda name: "kept")
    with torch.no_grad():
        keep(torch.empty(1, entering, height >> level, width >> level, device="meta"))
    return counted["kept"]


def _watch(network: nn.Module, by_stage: dict[str, Macs], stage: Callable[[str], str]) -> None:
    """Adds up in `by_stage` what the modules of `network` will do; `stage` says where each belongs, from its name."""
    for name, module in network.named_modules():
        if count := next((rule for kind, rule in RULES.items() if isinstance(module, kind)), None):
            module.register_forward_hook(_recorder(by_stage, stage(name), count))


def _stage(module_name: str) -> str:
    """The stage a module belongs to: down.i, up.i, middle, or the ends (embeddings and head) that always run."""
    parts = module_name.split(".")
    if parts[0] in ("down", "up"):
        return ".".join(parts[:2])
    return "middle" if parts[0] == "middle" else "ends"


def _recorder(
    by_stage: dict[str, Macs], stage: str, count: Callable[[Any, tuple[Tensor, ...], Tensor], Macs]
) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
    def record(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        by_stage[stage] += count(module, inputs, output)

    return record


def _conv(module: nn.Conv2d, inputs: tuple[Tensor, ...], output: Tensor) -> Macs:
    height, width = module.kernel_size
    per_output = module.in_channels // module.groups * height * width + (module.bias is not None)
    return Macs(layers=output.numel() * per_output)


def _linear(module: nn.Linear, inputs: tuple[Tensor, ...], output: Tensor) -> Macs:
    bias = module.out_features if module.bias is not None else 0
    return Macs(layers=output.numel() * module.in_features + bias)


def _group_norm(module: nn.GroupNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Macs:
    return Macs(group_norms=2 * output.numel())


def _layer_norm(module: nn.LayerNorm, inputs: tuple[Tensor, ...], output: Tensor) -> Macs:
    return Macs(layer_norms=2 * output.numel())


def _attend(module: Attend, inputs: tuple[Tensor, ...], output: Tensor) -> Macs:
    q, k, v = inputs
    return Macs(attention=q.shape[:-1].numel() * k.shape[-2] * (q.shape[-1] + v.shape[-1]))


RULES: dict[type[nn.Module], Callable[[Any, tuple[Tensor, ...], Tensor], Macs]] = {
    nn.Conv2d: _conv,
    nn.Linear: _linear,
    nn.GroupNorm: _group_norm,
    nn.LayerNorm: _layer_norm,
    Attend: _attend,
}
