"""A model's networks together: `load_parts`; and what surrounds the U-Net: `load_first_stage`, `load_conditioner`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch

import configs
from configs import InputError
from models import layouts, native, reading, text_encoder
from models.autoencoder import FirstStage, first_stage
from models.checkpoint import Provenance, assign, finish, naming, random, read_for, seeded, unet_from, without_weights
from models.conditioning import ClassEmbedder, ClassesConfig, ConditioningConfig, TextConfig
from models.config import FirstStageConfig
from models.download import fetch, fetch_parts, together
from models.hub import fetch_tokenizer
from models.known import Config, PartsConfig, check_agrees, same, settle
from models.part import CONDITIONER, FIRST_STAGE, UNET, Part, only_section, section
from models.text_encoder import TextEncoder, byte_tokenizer, clip_tokenizer
from models.unet import UNet

Conditioner = ClassEmbedder | TextEncoder
Section = TypeVar("Section", FirstStageConfig, ClassesConfig, TextConfig)


@dataclass(frozen=True)
class Parts:
    """The networks of one model. A model of images is its U-Net alone.

    Raises InputError for a conditioner whose contexts are not of the U-Net's width.
    """

    unet: UNet
    first_stage: FirstStage | None = None
    conditioner: Conditioner | None = None

    @property
    def sha256(self) -> str:
        """Of the file that holds all weights, or of the files together; "" of random weights."""
        return _digest_of(self.unet, self.first_stage, self.conditioner)

    @property
    def trajectory_sha256(self) -> str:
        """The same of what trajectories depend on: of all but the first stage, which decodes where they end."""
        return _digest_of(self.unet, self.conditioner)

    def __post_init__(self) -> None:
        taken = self.unet.config.context_dim
        if self.conditioner is not None and self.conditioner.config.dim != taken:
            raise InputError(f"the conditioner makes contexts {self.conditioner.config.dim} wide, but the U-Net takes "
                             f"{'none' if taken is None else f'them {taken} wide'}")  # fmt: skip


def _digest_of(*networks: UNet | FirstStage | Conditioner | None) -> str:
    sources = (network.provenance for network in networks if network is not None)
    digests = {source.file: source.sha256 for source in sources if source.file is not None}
    return together(list(digests.values()))


@dataclass(frozen=True)
class _Request:
    """What was asked for, and what is known about it."""

    checkpoint: str | Path
    known: PartsConfig | None  # the given configuration, else that of the model which has this file's U-Net
    given: bool
    dtype: torch.dtype
    device: torch.device | str
    tokenizer: str | Path | None = None

    @property
    def is_random(self) -> bool:
        return str(self.checkpoint) == "random"


def load_parts(
    checkpoint: str | Path,
    config: Config | None = None,
    *,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Parts:
    """Reads a checkpoint -> the U-Net with the first stage and the conditioner that the model has.

    checkpoint, config: as for `load`. The file is read once.
    tokenizer: as for `load_conditioner`.
    Raises InputError as `load`, and where a given configuration has a part that the checkpoint lacks.
    """
    request = _request(checkpoint, config, dtype, device, tokenizer)
    if request.is_random:
        unet = finish(random(request.known.network), Provenance("random", "none"), dtype, device)
        return Parts(
            unet,
            _random_first_stage(request) if request.known.first_stage else None,
            _random_conditioner(request) if request.known.conditioning else None,
        )
    paths = fetch_parts(checkpoint)
    whole = reading.read(paths[UNET])
    request = _identified(request, whole)
    unet = unet_from(whole, request.known, str(checkpoint), dtype, device)
    around: dict[str, Any] = {}
    for name, part, build in (
        ("first_stage", FIRST_STAGE, _first_stage_from),
        ("conditioner", CONDITIONER, _conditioner_from),
    ):
        in_one_file = paths.get(part) == whole.file
        if part in paths and (not in_one_file or any(key.startswith(part.prefix) for key in whole.tensors)):
            around[name] = build(whole if in_one_file else reading.read(paths[part], part), request)
        elif request.given and _wanted(request.known, part) is not None:
            raise InputError(f"{checkpoint} holds no {part.name}, which the configuration has; give a checkpoint of "
                             "the whole model, or load the U-Net alone")  # fmt: skip
    with naming(whole.file):
        return Parts(unet, **around)


def load_first_stage(
    checkpoint: str | Path,
    config: Config | FirstStageConfig | None = None,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> FirstStage:
    """Reads a first stage of its own, or that of a whole model -> the autoencoder, in eval mode, without gradients.

    checkpoint: as for `load`. config: as for `load`, or a FirstStageConfig. None: the architecture is what keys and
      shapes determine; the scale factor is the file's own, else the known model's whose U-Net the file holds, else 1.
    Raises InputError as `load`.
    """
    if isinstance(config, FirstStageConfig):
        config = PartsConfig(first_stage=config)
    request = _request(checkpoint, config, dtype, device)
    if request.is_random:
        return _random_first_stage(request)
    state = reading.read(fetch(checkpoint, FIRST_STAGE), FIRST_STAGE)
    return _first_stage_from(state, _identified(request, state))


def load_conditioner(
    checkpoint: str | Path,
    config: Config | ConditioningConfig | None = None,
    *,
    tokenizer: str | Path | None = None,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> Conditioner:
    """Reads the conditioner of a whole model -> the class embedder or text encoder, in eval mode, without gradients.

    checkpoint: as for `load`. config: as for `load`, or a ConditioningConfig.
    tokenizer: a folder with vocab.json and merges.txt, or a repository on the hub. None: the checkpoint's own, else
      the configuration's; of random weights a stand-in (see `byte_tokenizer`).
    Raises InputError as `load`.
    """
    if isinstance(config, ConditioningConfig):
        config = PartsConfig(conditioning=config)
    request = _request(checkpoint, config, dtype, device, tokenizer)
    if request.is_random:
        return _random_conditioner(request)
    state = reading.read(fetch(checkpoint, CONDITIONER), CONDITIONER)
    return _conditioner_from(state, _identified(request, state))


def _request(
    checkpoint: str | Path,
    config: Config | None,
    dtype: torch.dtype,
    device: torch.device | str,
    tokenizer: str | Path | None = None,
) -> _Request:
    known = read_for(checkpoint, config)
    return _Request(checkpoint, known, known is not None, dtype, device, tokenizer)


def _identified(request: _Request, state: reading.State) -> _Request:
    """With the configuration of the model whose U-Net lies in the same file, where none was given."""
    tensors = section(state.tensors, UNET)
    if request.given or not tensors or native.is_native(state):
        return request
    try:
        return replace(request, known=settle(tensors, state.config_json, None)[1])
    except InputError:  # no known U-Net, or no U-Net at all
        return request


def _wanted(known: PartsConfig | None, part: Part) -> FirstStageConfig | ConditioningConfig | None:
    if known is None:
        return None
    return known.first_stage if part == FIRST_STAGE else known.conditioning


def _agreed(wanted: Section | None, given: bool, found: Mapping[str, Any], default: Section) -> Section:
    """`wanted`, where it agrees with what was found in the file; else, unless it was given, `default`."""
    if wanted is None:
        return default
    if given:
        check_agrees(wanted, found)
    return wanted if all(same(getattr(wanted, key), value) for key, value in found.items()) else default


def _first_stage_from(state: reading.State, request: _Request) -> FirstStage:
    with naming(state.file):
        # A first stage on its own comes with its training's losses.
        tensors = {key: value for key, value in only_section(state.tensors, FIRST_STAGE).items()
                   if not key.startswith(("loss.", "model_ema."))}  # fmt: skip
        layout = layouts.recognise(tensors, layouts.FIRST_STAGE_LAYOUTS)
        found = layouts.infer(layout, tensors)
        wanted = _wanted(request.known, FIRST_STAGE)
        config = _agreed(wanted, request.given, found, FirstStageConfig(**found))
        stated = layout.stated(state.config_json) if state.config_json else {}
        if request.given and wanted is not None and "scaling_factor" not in state.config_json:
            stated = {}  # no more than its class's default
        where = "its config.json"
        if (factor := state.tensors.get("scale_factor")) is not None and factor.numel() == 1:
            layouts.check_readable("scale_factor", factor)
            stated, where = {"scale_factor": factor.item()}, "its tensor"
        config = configs.parse(FirstStageConfig, asdict(config), stated, where=["the configuration", where])
        network = without_weights(lambda: first_stage(config))
        weights = layouts.translate(tensors, layout, network)
    provenance = Provenance(str(request.checkpoint), layout.name, state.file)
    return finish(assign(network, weights, request.dtype), provenance, request.dtype, request.device)


def _conditioner_from(state: reading.State, request: _Request) -> Conditioner:
    wanted = _wanted(request.known, CONDITIONER)
    with naming(state.file):
        tensors = only_section(state.tensors, CONDITIONER)
        if "embedding.weight" in tensors and tensors["embedding.weight"].ndim == 2:
            _check_kind(request, "classes")
            found = dict(zip(("num_classes", "dim"), tensors["embedding.weight"].shape, strict=True))
            classes = _agreed(wanted and wanted.classes, request.given, found, ClassesConfig(**found))
            network, layout = without_weights(lambda: ClassEmbedder(classes)), "class embedding"
            weights = layouts.pick(tensors, {"embedding.weight": ("embedding.weight",)}, network, layout)
        else:
            _check_kind(request, "text")
            found, stated = text_encoder.infer(tensors), text_encoder.stated(state.config_json)
            guessed = {"heads": max(1, found["dim"] // 64)}  # CLIP's are 64 wide
            default = configs.parse(TextConfig, found | guessed, stated, where=["its tensors", "its config.json"])
            found |= {key: getattr(default, key) for key in stated}
            text = _agreed(wanted and wanted.text, request.given, found, default)
            tokenize = clip_tokenizer(fetch_tokenizer(_tokenizer_of(state, request, text)), text)
            network, layout = without_weights(lambda: TextEncoder(text, tokenize)), "CLIP text encoder"
            weights = text_encoder.weights(tensors, network)
    provenance = Provenance(str(request.checkpoint), layout, state.file)
    return finish(assign(network, weights, request.dtype), provenance, request.dtype, request.device)


def _check_kind(request: _Request, held: str) -> None:
    """Raises InputError where a conditioner of the other kind was given than a file holds, "classes" or "text"."""
    wanted = _wanted(request.known, CONDITIONER) if request.given else None
    if wanted is not None and getattr(wanted, held) is None:
        other = {"classes": "text", "text": "classes"}[held]
        raise InputError(f"its conditioner is one of {held}, but the configuration says {other}")


def _tokenizer_of(state: reading.State, request: _Request, config: TextConfig) -> str | Path:
    beside = state.file.parent.parent / "tokenizer"  # in a diffusers pipeline
    if request.tokenizer is not None:
        return request.tokenizer
    if str(request.checkpoint).startswith("hf://"):
        return str(request.checkpoint).removeprefix("hf://")
    return beside if state.file.name in CONDITIONER.files and beside.is_dir() else config.tokenizer


def _random_first_stage(request: _Request) -> FirstStage:
    config = request.known.first_stage
    if config is None:
        raise InputError("the configuration has no first_stage")
    network = seeded(lambda: first_stage(config))
    return finish(network, Provenance("random", "none"), request.dtype, request.device)


def _random_conditioner(request: _Request) -> Conditioner:
    config = request.known.conditioning
    if config is None:
        raise InputError("the configuration has no conditioning")
    if config.classes is not None:
        network = seeded(lambda: ClassEmbedder(config.classes))
    else:
        given = request.tokenizer and fetch_tokenizer(request.tokenizer)
        tokenize = clip_tokenizer(given, config.text) if given else byte_tokenizer(config.text)
        network = seeded(lambda: TextEncoder(config.text, tokenize))
    return finish(network, Provenance("random", "none"), request.dtype, request.device)
