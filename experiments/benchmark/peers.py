"""Other people's implementations of the same networks, where they are installed: pip install -e ".[peers]"."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from experiments.benchmark.engines import Unavailable, in_dtype, trajectory
from experiments.benchmark.variants import LAYOUTS, Variant
from experiments.benchmark.workload import Task, Workload
from experiments.precision import in_precision
from models import UNet, UNetConfig
from models.layouts.diffusers import DIFFUSERS
from models.layouts.diffusers_conditional import DIFFUSERS_CONDITIONAL
from models.layouts.translate import Layout, their_keys

# The innermost of the modules that DeepCacheSDHelper patches, and how many of one class a network may have.
PATCHED = re.compile(r"(down|up)_blocks\.\d+\.(resnets|attentions|downsamplers|upsamplers)\.\d+|mid_block")
BLOCKS = 128


class Diffusers:
    """UNet2DModel or UNet2DConditionModel with our weights; it knows full passes alone."""

    splits: ClassVar[bool] = False

    def __init__(self, work: Workload, variant: Variant) -> None:
        self.work, self.variant = work, variant
        network = diffusers_unet(work.network())
        # Not by the network's own `to`, which warns of layers to be kept in float32: there are none.
        self.unet = nn.Module.to(network, work.device, variant.dtype)
        if variant.layout is not None:
            nn.Module.to(network, memory_format=LAYOUTS[variant.layout])
        if variant.compiled:
            self.compile()
        self.row_cond = in_dtype(work.row_cond, variant.dtype)
        self.cond = in_dtype(work.cond, variant.dtype)
        self.uncond = in_dtype(work.uncond, variant.dtype)

    store_bytes: int | None = None  # it has no store; a package that has one does not tell

    @staticmethod
    def prepare() -> None:
        """See Ours.prepare."""
        package = _package("diffusers")
        _ = package.UNet2DModel, package.UNet2DConditionModel, package.StableDiffusionPipeline  # imported when named

    def call(self, task: Task) -> Callable[[], Tensor]:
        """What computes `task`; see Ours.call."""
        if task.branch is not None:
            raise Unavailable("diffusers has no partial passes")
        if task.interval is not None:
            return lambda: self.sample(task)
        return lambda: self.evaluate(self.work.x.to(self.variant.dtype), self.work.t, self.row_cond).float()

    def compile(self) -> None:
        """By torch.compile, as a whole: on a GPU as CUDA graphs, as our own passes are (models/programs.py)."""
        options = {"mode": "reduce-overhead"} if self.work.device.type == "cuda" else {}
        compiled = torch.compile(self.unet.forward, dynamic=False, **options)

        def replay(*arguments: Any, **settings: Any) -> tuple[Tensor]:
            torch.compiler.cudagraph_mark_step_begin()
            return (compiled(*arguments, **settings)[0].clone(),)  # the next replay writes into the same memory

        self.unet.forward = replay

    def evaluate(self, x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
        return self.unet(x, t, *(() if cond is None else (cond,)), return_dict=False)[0]

    def sample(self, task: Task) -> Tensor:
        return trajectory(self.work, in_precision(self.evaluate, self.variant.dtype), self.cond, self.uncond)


class DeepCache(Diffusers):
    """The same network under the package of DeepCache's authors, `DeepCacheSDHelper`, which patches its blocks.

    Trajectories of text models are those of a StableDiffusionPipeline.
    """

    def __init__(self, work: Workload, variant: Variant) -> None:
        if work.model.network.num_res_blocks != 2:
            raise Unavailable("DeepCacheSDHelper counts three branches per level, which this network has not")
        super().__init__(work, variant)
        self.helper = _package("DeepCache").DeepCacheSDHelper(
            pipe=SimpleNamespace(unet=self.unet, scheduler=SimpleNamespace())
        )
        self._set(interval=1, branch=0)
        self.helper.enable()
        self._holds_passes = False  # does its cache hold the features of single passes?

    def compile(self) -> None:
        """Block by block, under the patches, and without CUDA graphs, whose memory would be written over while the
        package holds it. As a whole it cannot be: the package counts its calls in an attribute, for every value of
        which PyTorch compiles anew, until it gives up and runs everything uncompiled."""
        limits = torch._dynamo.config
        limit = "recompile_limit" if hasattr(limits, "recompile_limit") else "cache_size_limit"  # torch 2.6 says
        setattr(limits, limit, max(getattr(limits, limit), BLOCKS))
        for name, module in self.unet.named_modules():
            if PATCHED.fullmatch(name):
                module.forward = torch.compile(module.forward, dynamic=False)

    @staticmethod
    def prepare() -> None:
        """See Ours.prepare."""
        Diffusers.prepare()
        _package("DeepCache")

    def call(self, task: Task) -> Callable[[], Tensor]:
        """See Ours.call."""
        if task.interval is None:
            return lambda: self.one_pass(task).float()
        if self.work.model.conditioning and self.work.model.conditioning.text:
            pipe = stable_diffusion(self.work, self.unet)
            return lambda: self.sample_pipeline(pipe, task)
        return lambda: self.sample(task)

    def one_pass(self, task: Task) -> Tensor:
        x, t = self.work.x.to(self.variant.dtype), self.work.t[0]
        self.helper.pipe.scheduler.timesteps = [t]
        if task.branch is None or not self._holds_passes:
            self._set(interval=1, branch=task.branch or 0)
            eps = self.evaluate(x, t, self.row_cond)
            self._holds_passes = True
            if task.branch is None:
                return eps
        self._set(interval=2, branch=task.branch)
        self.helper.start_timestep = -1  # so that the only call is the second of two
        return self.evaluate(x, t, self.row_cond)

    def sample(self, task: Task) -> Tensor:
        self._begin(task)
        self.helper.pipe.scheduler.timesteps = torch.tensor(self.work.sampler.eval_timesteps)

        def denoiser(x: Tensor, t: Tensor, cond: Tensor | None) -> Tensor:
            return self.evaluate(x, t[0], cond)

        return trajectory(self.work, in_precision(denoiser, self.variant.dtype), self.cond, self.uncond)

    def sample_pipeline(self, pipe: Any, task: Task) -> Tensor:
        self._begin(task)
        bare, self.helper.pipe = self.helper.pipe, pipe
        height, width = (8 * side for side in self.work.shape[1:])
        latents = self.work.noise()().to(self.variant.dtype)
        images = pipe(
            prompt_embeds=self.cond, negative_prompt_embeds=self.uncond, latents=latents, height=height, width=width,
            num_inference_steps=len(self.work.sampler.table), guidance_scale=self.work.scale, output_type="latent",
        ).images  # fmt: skip
        self.helper.pipe = bare
        return images.float()

    def _begin(self, task: Task) -> None:
        self._set(task.interval, task.branch or 0)
        self.helper.cached_output, self.helper.start_timestep = {}, None
        self._holds_passes = False

    def _set(self, interval: int, branch: int) -> None:
        self.helper.set_params(cache_interval=interval, cache_branch_id=branch)
        self.helper.start_timestep = None


def diffusers_unet(network: UNet) -> nn.Module:
    """diffusers' network of the same architecture, with these weights.

    Raises Unavailable where diffusers is not installed or has no such network.
    """
    diffusers = _package("diffusers")
    config = network.config
    if config.resample != "conv" or config.scale_shift_norm or config.num_classes is not None:
        raise Unavailable("diffusers has no network of this family")
    if config.context_dim is None and config.num_heads not in (1, None):
        raise Unavailable("UNet2DModel has one head, or heads of one width")
    with torch.device("meta"):
        theirs = _conditional(diffusers, config) if config.context_dim else _unconditional(diffusers, config)
    layout = DIFFUSERS_CONDITIONAL if config.context_dim else DIFFUSERS
    theirs.load_state_dict(translated(network, theirs, layout), strict=True, assign=True)
    return theirs.eval().requires_grad_(False)


def translated(network: UNet, theirs: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Our weights under the names and in the shapes of `theirs`: `models.layouts.translate` the other way round."""
    modules, shapes = layout.modules(network.config), {key: like.shape for key, like in theirs.state_dict().items()}
    weights = {}
    for name, value in network.state_dict().items():
        keys = their_keys(name, modules, layout)
        for key, part in zip(keys, value.chunk(len(keys)), strict=True):
            weights[key] = part.reshape(shapes[key])
    return weights


def _unconditional(diffusers: ModuleType, config: UNetConfig) -> nn.Module:
    blocks = _blocks(config, ("DownBlock2D", "UpBlock2D"), ("AttnDownBlock2D", "AttnUpBlock2D"))
    return diffusers.UNet2DModel(attention_head_dim=config.head_channels, **blocks, **_shared(config))


def _conditional(diffusers: ModuleType, config: UNetConfig) -> nn.Module:
    blocks = _blocks(config, ("DownBlock2D", "UpBlock2D"), ("CrossAttnDownBlock2D", "CrossAttnUpBlock2D"))
    # Here attention_head_dim is the number of heads.
    heads = [config.heads(config.width(level)) for level in range(config.num_levels)]
    return diffusers.UNet2DConditionModel(
        cross_attention_dim=config.context_dim, attention_head_dim=heads,
        transformer_layers_per_block=config.transformer_depth, **blocks, **_shared(config),
    )  # fmt: skip


def _shared(config: UNetConfig) -> dict[str, Any]:
    sin_cos = config.timestep_embedding == "sin_cos"
    return {
        "sample_size": config.resolution, "in_channels": config.in_channels, "out_channels": config.out_channels,
        "layers_per_block": config.num_res_blocks, "norm_eps": config.norm_eps, "norm_num_groups": config.num_groups,
        "block_out_channels": [config.width(level) for level in range(config.num_levels)],
        "downsample_padding": 0 if config.downsample_padding == "asymmetric" else 1,
        "flip_sin_to_cos": not sin_cos, "freq_shift": 1 if sin_cos else 0,
    }  # fmt: skip


def _blocks(config: UNetConfig, plain: tuple[str, str], attending: tuple[str, str]) -> dict[str, list[str]]:
    kinds = [attending if level in config.attention_levels else plain for level in range(config.num_levels)]
    return {"down_block_types": [down for down, _ in kinds], "up_block_types": [up for _, up in reversed(kinds)]}


def stable_diffusion(work: Workload, unet: nn.Module) -> Any:
    """A StableDiffusionPipeline around the network, without first stage and text encoder: contexts are given, latents
    come back."""
    diffusers = _package("diffusers")
    schedule = work.model.diffusion
    betas = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end, "beta_schedule": schedule.schedule}
    if work.sampler.config.name == "plms":
        scheduler = diffusers.PNDMScheduler(skip_prk_steps=True, set_alpha_to_one=False, steps_offset=1, **betas)
    else:
        scheduler = diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, steps_offset=1, **betas)
    pipe = diffusers.StableDiffusionPipeline(
        unet=unet, scheduler=scheduler, vae=None, text_encoder=None, tokenizer=None, safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _package(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise Unavailable(f'{name} is not installed: pip install -e ".[peers]"') from error
