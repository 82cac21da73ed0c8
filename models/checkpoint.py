"""`load`: any supported checkpoint -> a network in eval mode."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from configs import InputError
from models import layouts, native, reading
from models.config import UNetConfig
from models.download import digest, fetch, known_by_md5
from models.known import Config, PartsConfig, check_agrees, read_config, settle
from models.part import UNET, moving_average, only_section
from models.unet import UNet

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Provenance:
    """Where a network's weights come from."""

    source: str  # as asked for: a path, URL, hf://owner/name, a published name, or "random"
    layout: str
    file: Path | None = None
    records: Mapping[str, Any] = field(default_factory=dict)  # our own checkpoints': diffusion, training

    # Both read the whole file, so they are computed when asked for.
    @cached_property
    def sha256(self) -> str:
        """Of the file; "" where there is none."""
        return digest(self.file, "sha256") if self.file else ""

    @cached_property
    def published(self) -> str:
        """Name of the published file that these bytes are; "" where they are none that configs/models knows."""
        return known_by_md5(self.file) if self.file else ""


def load(
    checkpoint: str | Path,
    config: Config | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> UNet:
    """Reads a checkpoint of any supported layout -> the network, in eval mode, without gradients.

    checkpoint: a file or folder, a URL, `hf://owner/name`, the name of a published file of configs/models (such as
      `ema_cifar10`), or `random` for reproducible random weights.
    config: NAME of configs/models, a YAML file, a mapping of its contents (or of its `network` part), or a
      UNetConfig. None: what the file itself says, else the configuration whose architecture it has, else (for
      networks of Ho et al.) what its keys and shapes determine.
      A network alone (a UNetConfig, or the mapping of that part) does not say how public files store it: that is
      what configs/models says of exactly this network, else the legacy order of fused qkv and the moving average.
    Of a checkpoint of a whole model the U-Net alone is kept: `load_parts` keeps the rest as well.
    The layout is recognised from the keys and translated strictly: every key used, every shape equal.
    `network.provenance` says what was loaded.

    Raises InputError, in one sentence, for a file that is missing, truncated, damaged or foreign, and for a
    configuration that does not fit it.
    """
    known = read_for(checkpoint, config)
    if str(checkpoint) == "random":
        return finish(random(known.network), Provenance("random", "none"), dtype, device)
    return unet_from(reading.read(fetch(checkpoint)), known, str(checkpoint), dtype, device)


def from_diffusers(unet: nn.Module) -> UNet:
    """A U-Net of diffusers in memory, say a fine-tuned pipe.unet -> ours, in eval mode, without gradients.

    unet: UNet2DModel or UNet2DConditionModel, with LoRA layers fused and unloaded. Ours has its precision and device
      and shares its tensors; q, k and v of plain self-attention are copied, since they become one tensor here.
    Translated as strictly as files are. Raises InputError for another module, for a network of another family, and for
    one that computes otherwise than its class does (FreeU, attention processors of its own).
    """
    if not isinstance(unet, nn.Module) or not isinstance(getattr(unet, "config", None), Mapping):
        raise InputError(f"from_diffusers takes a UNet2DModel or UNet2DConditionModel of diffusers, not a "
                         f"{type(unet).__name__}")  # fmt: skip
    tensors = unet.state_dict()
    if any(".lora_" in key for key in tensors):
        raise InputError("the diffusers module has LoRA layers beside its weights; fuse them first: "
                         "pipe.fuse_lora(), then pipe.unload_lora_weights()")  # fmt: skip
    _check_unpatched(unet)
    state = reading.State(tensors, file=None, config_json=dict(unet.config))
    like = next(unet.parameters())
    return unet_from(state, None, "diffusers module in memory", like.dtype, like.device)


# Processors that compute plain attention, in whatever way.
PLAIN_ATTENTION = ("AttnProcessor", "AttnProcessor2_0", "SlicedAttnProcessor", "XFormersAttnProcessor",
                   "FusedAttnProcessor2_0")  # fmt: skip


def _check_unpatched(unet: nn.Module) -> None:
    for processor in getattr(unet, "attn_processors", {}).values():
        if type(processor).__name__ not in PLAIN_ATTENTION:
            raise InputError(f"the diffusers module has attention processors of its own ({type(processor).__name__}), "
                             "which would be lost; call its set_default_attn_processor() first")  # fmt: skip
    if any(getattr(module, name, None) for module in unet.modules() for name in ("s1", "s2", "b1", "b2")):
        raise InputError("the diffusers module has FreeU enabled, which would be lost; call pipe.disable_freeu() first")


def read_for(checkpoint: str | Path, config: Config | None) -> PartsConfig | None:
    """The given configuration, which random weights cannot do without."""
    if config is None and str(checkpoint) == "random":
        raise InputError("random weights need a configuration, e.g. config=cifar10")
    return None if config is None else read_config(config)


def unet_from(
    state: reading.State, known: PartsConfig | None, source: str, dtype: torch.dtype, device: torch.device | str
) -> UNet:
    """The U-Net among the tensors of `state`; see `load`."""
    with naming(state.file or source):
        network, weights, layout = _understand(state, known)
        provenance = Provenance(source, layout, state.file, native.records(state))
    return finish(assign(network, weights, dtype), provenance, dtype, device)


def random(config: UNetConfig, seed: int = 0) -> UNet:
    """The network with reproducible random weights: for costs, speed and plumbing, not for images."""
    return seeded(lambda: UNet(config), seed)


def seeded(build: Callable[[], Network], seed: int = 0) -> Network:
    """What `build` returns, its random initialisation reproducible."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def without_weights(build: Callable[[], Network]) -> Network:
    """What `build` returns, on the meta device: names and shapes, no memory."""
    with torch.device("meta"):
        return build()


def assign(network: Network, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Network:
    """Gives `network` these very tensors, not copies of them: at no time are there two sets of weights."""
    network.load_state_dict({name: value.to(dtype) for name, value in weights.items()}, assign=True)
    return network


def finish(network: Network, provenance: Provenance, dtype: torch.dtype, device: torch.device | str) -> Network:
    network.provenance = provenance
    return network.to(device, dtype).eval().requires_grad_(False)


@contextmanager
def naming(what: Path | str) -> Iterator[None]:
    """Sentences about what is inside a file begin with its name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{what} cannot be loaded: {error}") from error


def _understand(state: reading.State, known: PartsConfig | None) -> tuple[UNet, dict[str, Tensor], str]:
    """The U-Net that a file holds, on the meta device; its weights under our names; the name of the layout."""
    if native.is_native(state):
        own = native.network_config(state)
        if known is not None:
            check_agrees(known.network, asdict(own))
        network = without_weights(lambda: UNet(own))
        return network, native.weights(state, network), "native"
    tensors = only_section(state.tensors, UNET)
    layout, known = settle(tensors, state.config_json, known)
    if known.weights == "ema":
        tensors = moving_average(state.tensors) or tensors
    network = without_weights(lambda: UNet(known.network))
    return network, layouts.translate(tensors, layout, network, known.attention_order), layout.name
