"""From seeds to images but for the sampler and the policy: noise, conditions, guidance, decoding."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import numpy as np
import torch
from torch import Tensor

import configs
import models
from caching import Cached, Fitted, MadeFor, PassCosts, cached_denoiser, pass_costs
from configs import InputError
from experiments.engine import Engine, EngineConfig
from experiments.grid import Strategy
from experiments.model import default_checkpoint, model_config
from experiments.precision import PRECISIONS, in_precision
from experiments.prompts import read_prompts
from models import ClassEmbedder, Parts, TextEncoder
from samplers import Denoiser, GuidanceConfig, GuidancePlan, ImageNoise, Sampler, guide


@dataclass(frozen=True)
class PipelineConfig(EngineConfig):
    """What images are made of, besides their seeds."""

    labels: list[int] | None = None  # class-conditional models: that of seed s is entry s mod their number; null: drawn
    prompt: str | None = None  # text models: of every image,
    prompts: str | None = None  # or a text file, one per line: that of seed s is line s mod their number
    negative_prompt: str | None = None  # that guidance leads away from, of every image; null: the empty one
    tokenizer: str | None = None  # folder or hub repository; null: the checkpoint's own, else the configuration's
    guidance: GuidanceConfig = field(default_factory=GuidanceConfig)
    height: int | None = None  # pixels; null: as trained
    width: int | None = None
    precision: str = "fp32"  # of weights and network evaluations: fp32 | bf16 | fp16; the sampler's state stays fp32

    def __post_init__(self) -> None:
        super().__post_init__()
        configs.one_of(self.precision, PRECISIONS, "precision")
        if self.prompt is not None and self.prompts is not None:
            raise InputError("give either prompt or prompts, not both")

    @property
    def of_images(self) -> PipelineConfig:
        """These settings alone, without those of the script that adds its own."""
        return PipelineConfig(**{each.name: getattr(self, each.name) for each in fields(PipelineConfig)})

    def trajectories(self, checkpoint: str, sampler: Sampler) -> MadeFor:
        """What a plan that is calibrated here will be for. checkpoint: sha256 of the weights."""
        schedule = {f"diffusion.{key}": value for key, value in asdict(sampler.diffusion).items()}
        guidance = {f"guidance.{key}": value for key, value in asdict(self.guidance).items()}
        rest = {"height": self.height, "width": self.width, "split": self.split}
        return MadeFor(checkpoint, asdict(sampler.config), list(sampler.eval_timesteps), schedule | guidance | rest)


class Pipeline:
    """The networks of a model, bound to conditions, guidance and size. Image i depends on its seed alone.

    num_timesteps: of the diffusion that the model was trained on.
    """

    def __init__(self, parts: Parts, config: PipelineConfig, num_timesteps: int = 1000) -> None:
        self.parts, self.config = parts, config
        self.engine = Engine(config, parts.unet, num_timesteps)
        self.unet = self.engine.unet
        self.first_stage = parts.first_stage and self.engine.layers(parts.first_stage)
        self.conditioner = parts.conditioner
        self.device = next(self.unet.parameters()).device
        self.dtype = PRECISIONS[config.precision]
        self.prompts = _prompts(config)
        self.shape = self._latent_shape()
        self._check_conditions()

    @property
    def context_length(self) -> int:
        """Tokens of the cross-attention context."""
        return self.conditioner.config.length if isinstance(self.conditioner, TextEncoder) else 1

    @property
    def is_guided(self) -> bool:
        return self.config.guidance.is_on

    def guidance(self, strategy: Strategy) -> GuidanceConfig:
        """The guidance of runs under `strategy`."""
        return self.config.guidance.everywhere if strategy.guided_everywhere else self.config.guidance

    def cached(self, strategy: Strategy) -> list[Cached]:
        """The U-Net under `strategy`; twice, with a store each, where guidance makes two calls.

        Raises InputError where weights were fitted to features that the unconditional half does not make, and as
        Engine.network.
        """
        guidance = self.guidance(strategy)
        if guidance.is_partial and isinstance(strategy.forecaster, Fitted):
            raise InputError("fitted weights hold where every network call is made; leave out guidance.interval and "
                             "guidance.every, or take another forecaster")  # fmt: skip
        calls = guidance.num_calls
        rows = 2 if self.is_guided and calls == 1 else 1
        unet = self.engine.network(strategy)
        return [cached_denoiser(unet, strategy.policy, strategy.forecaster, rows) for _ in range(calls)]

    def costs(self) -> PassCosts:
        """What passes at this size cost, as the paper counts."""
        return pass_costs(self.unet.config, self.shape[1:], self.context_length)

    def noise(self, seeds: Sequence[int]) -> ImageNoise:
        return ImageNoise(seeds, self.shape, self.device)

    def bind(self, cached: Sequence[Cached], seeds: Sequence[int], plan: GuidancePlan | None = None) -> Denoiser:
        """The denoiser of one trajectory of these images: conditions and guidance around the cached network.

        plan: which evaluations are guided, and how; None is all of them, in full.
        """
        cond = self.cond(seeds)
        uncond = self.uncond(len(seeds)) if self.is_guided else None

        first, *second = (in_precision(denoiser, self.dtype) for denoiser in cached)
        scale = self.config.guidance.scale
        return guide(first, cond, uncond, scale, uncond_denoiser=second[0] if second else None, plan=plan)

    def cond(self, seeds: Sequence[int]) -> Tensor | None:
        """Labels (B,) or context (B, L, D) of these images; None for an unconditional model."""
        if isinstance(self.conditioner, TextEncoder):
            return self.conditioner([self.describe(seed) for seed in seeds])
        if self.num_labels is None:
            return None
        labels = torch.tensor([self.label(seed) for seed in seeds], device=self.device)
        return self.conditioner(labels) if isinstance(self.conditioner, ClassEmbedder) else labels

    def uncond(self, count: int) -> Tensor:
        """What guidance leads away from, as `cond`."""
        if self.config.negative_prompt is not None:
            return self.conditioner.unconditional(count, self.config.negative_prompt)
        return self.conditioner.unconditional(count)

    @property
    def num_labels(self) -> int | None:
        """Classes to draw from; None where the model has none."""
        if isinstance(self.conditioner, ClassEmbedder):
            classes = self.conditioner.config
            return classes.num_classes - (classes.unconditional is not None)
        return self.unet.config.num_classes

    def label(self, seed: int) -> int:
        if self.config.labels:
            return self.config.labels[seed % len(self.config.labels)]
        return int(np.random.default_rng([seed, LABEL_STREAM]).integers(self.num_labels or 1))

    def describe(self, seed: int) -> str:
        """The prompt or class of an image, as text; "" for an unconditional model."""
        if self.prompts:
            return self.prompts[seed % len(self.prompts)]
        return f"class {self.label(seed)}" if self.num_labels else ""

    def decode(self, x: Tensor) -> Tensor:
        """Final states (B, C, h, w) -> images (B, 3, H, W) in [-1, 1], on the CPU."""
        first_stage = self.first_stage
        if first_stage is None:
            return x.float().cpu()
        # One by one: a decoder's features at full resolution are the largest tensors of the whole pipeline.
        return torch.cat([first_stage.decode(latent[None].to(self.dtype)).float().cpu() for latent in x])

    def _latent_shape(self) -> tuple[int, int, int]:
        network, first_stage = self.unet.config, self.first_stage
        factor = first_stage.config.downsampling if first_stage else 1
        multiple = factor * 2 ** (network.num_levels - 1)
        sides = []
        for name in ("height", "width"):
            given = getattr(self.config, name)
            pixels = network.resolution * factor if given is None else given
            if pixels % multiple or pixels < multiple:
                raise InputError(f"{name} {pixels} is no multiple of {multiple} pixels, which this model needs")
            sides.append(pixels // factor)
        return network.in_channels, sides[0], sides[1]

    def _check_conditions(self) -> None:
        has_text, config = isinstance(self.conditioner, TextEncoder), self.config
        if has_text and not self.prompts:
            raise InputError('this model needs prompt="..." or prompts=FILE')
        if not has_text and (self.prompts or config.tokenizer or config.negative_prompt is not None):
            raise InputError("this model takes no prompts")
        if config.negative_prompt is not None and not self.is_guided:
            raise InputError("a negative_prompt is what guidance leads away from; give a guidance.scale as well")
        if config.labels is not None and (self.num_labels is None or not config.labels):
            raise InputError("this model has no classes" if config.labels else "labels must name at least one class")
        for label in config.labels or []:
            if not 0 <= label < self.num_labels:
                raise InputError(f"there is no class {label}; labels lie in 0..{self.num_labels - 1}")
        if self.unet.config.context_dim is not None and self.conditioner is None:
            raise InputError("this U-Net needs a context, but the checkpoint holds no conditioner")
        if self.is_guided and self.conditioner is None:
            raise InputError("only models with a conditioner can be guided; leave guidance.scale at 1")


# Labels must not share random numbers with the noise of the same seed.
LABEL_STREAM = 1


def load_pipeline(
    checkpoint: str | None, model: str, config: PipelineConfig, device: torch.device | str = "cpu"
) -> Pipeline:
    """checkpoint: None is the first that the model names. model: NAME in configs/models or a YAML file.

    Raises InputError as models.load_parts, and where conditions, guidance, size or a recorded noise schedule do not fit
    the model.
    """
    checkpoint = checkpoint or default_checkpoint(model)
    parts = models.load_parts(
        checkpoint, model, tokenizer=config.tokenizer, dtype=PRECISIONS[config.precision], device=device
    )
    diffusion = model_config(model).diffusion
    _check_schedule(parts.unet.provenance.records.get("diffusion", {}), asdict(diffusion), checkpoint, model)
    return Pipeline(parts, config, diffusion.num_timesteps)


def _check_schedule(recorded: Mapping[str, Any], ours: Mapping[str, Any], checkpoint: str, model: str) -> None:
    """Raises InputError where a checkpoint of ours says that it was trained on another noise schedule."""
    for key in recorded.keys() & ours.keys() - {"precision"}:  # whose rounding is no other schedule
        if recorded[key] != ours[key]:
            raise InputError(f"{checkpoint} was trained with the noise schedule's {key}={recorded[key]}, but the model "
                             f"{model} says {ours[key]}; take the configuration it was trained with")  # fmt: skip


def _prompts(config: PipelineConfig) -> list[str]:
    if config.prompts is not None:
        return read_prompts(config.prompts)
    return [] if config.prompt is None else [config.prompt]
