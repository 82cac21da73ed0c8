"""The architectures: of one U-Net, with the numbering of its skip branches, and of one first stage."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

from omegaconf import MISSING

from configs import InputError, one_of


@dataclass(frozen=True)
class UNetConfig:
    """Everything that determines the network's parameters and arithmetic.

    The families differ in these options, not in shape (facts in the papers' code bases):

    | option              | DDPM         | LDM, Stable Diffusion | guided-diffusion |
    |---------------------|--------------|-----------------------|------------------|
    | timestep_embedding  | sin_cos      | cos_sin               | cos_sin          |
    | norm_eps            | 1e-6         | 1e-5                  | 1e-5             |
    | downsample_padding  | asymmetric   | symmetric             | symmetric        |
    | resample            | conv         | conv (churches: resblock) | resblock     |
    | scale_shift_norm    | no           | no (churches: yes)    | yes              |
    | context_dim         | none         | 512 / 768             | none             |
    | num_classes         | none         | none                  | 1000 or none     |
    """

    resolution: int = MISSING  # pixels (or latent cells) per side that the network was trained at
    channels: int = MISSING  # width that channel_mult multiplies
    channel_mult: list[float] = MISSING  # one per level, outermost first; 0.5 occurs (ADM-512)
    in_channels: int = 3
    out_channels: int = 3
    num_res_blocks: int = 2
    attention_levels: list[int] = field(default_factory=list)  # levels whose residual blocks are followed by attention
    num_heads: int | None = None  # exactly one of num_heads and head_channels
    head_channels: int | None = None
    context_dim: int | None = None  # width of the cross-attention context; attention is then a transformer
    transformer_depth: int = 1
    num_classes: int | None = None  # class labels, embedded and added to the timestep embedding
    timestep_embedding: str = "sin_cos"
    num_groups: int = 32  # of every GroupNorm; 32 in all public models. With one channel per group nothing that is
    # normalised knows its channels' means any more, so narrow networks need fewer groups.
    norm_eps: float = 1e-6  # of every GroupNorm but the transformers' own, which is always 1e-6
    downsample_padding: str = "asymmetric"  # (0,1,0,1) as Ho et al., or symmetric 1
    resample: str = "conv"  # one convolution, or a residual block, per change of resolution
    scale_shift_norm: bool = False  # the embedding scales and shifts norm2 instead of being added before it
    dropout: float = 0.0

    def __post_init__(self) -> None:
        # YAML and safetensors metadata hold lists; a frozen, hashable configuration holds tuples.
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        object.__setattr__(self, "attention_levels", tuple(sorted(self.attention_levels)))
        if self.num_heads is None and self.head_channels is None:
            object.__setattr__(self, "num_heads", 1)
        self._check_options()
        self._check_levels()

    def _check_options(self) -> None:
        one_of(self.timestep_embedding, ("sin_cos", "cos_sin"), "timestep_embedding")
        one_of(self.downsample_padding, ("asymmetric", "symmetric"), "downsample_padding")
        one_of(self.resample, ("conv", "resblock"), "resample")
        for name in ("resolution", "channels", "in_channels", "out_channels", "num_res_blocks", "num_heads",
                     "head_channels", "context_dim", "transformer_depth", "num_classes", "num_groups"):  # fmt: skip
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.timestep_embedding == "sin_cos" and self.channels < 4:
            raise InputError(f"channels must be at least 4 for two frequencies of sin_cos, not {self.channels}")
        if not 0 < self.norm_eps < math.inf:
            raise InputError(f"norm_eps must be a finite number above 0, not {self.norm_eps}")
        if not 0 <= self.dropout < 1:
            raise InputError(f"dropout must lie in 0..1 (1 excluded), not {self.dropout}")
        if self.num_heads is not None and self.head_channels is not None:
            raise InputError("a network has either num_heads or head_channels, not both")
        if self.num_classes is not None and self.context_dim is not None:
            raise InputError("a network has either class labels (num_classes) or a context (context_dim), not both")

    def _check_levels(self) -> None:
        if not self.channel_mult:
            raise InputError("channel_mult must have one entry per level, e.g. [1, 2, 2, 2]")
        if not all(math.isfinite(mult * self.channels) for mult in self.channel_mult):
            raise InputError(f"channel_mult must hold finite numbers, not {list(self.channel_mult)}")
        innermost = self.num_levels - 1
        if self.resolution % 2**innermost:
            raise InputError(f"resolution {self.resolution} must be a multiple of {2**innermost}, since each of the "
                             f"{self.num_levels} levels but the first halves it")  # fmt: skip
        if any(not 0 <= level <= innermost for level in self.attention_levels):
            raise InputError(f"attention_levels {list(self.attention_levels)} must lie in 0..{innermost}")
        heads = f"heads of {self.head_channels} channels" if self.head_channels else f"{self.num_heads} heads"
        for level in range(self.num_levels):
            width = self.width(level)
            if width < 1 or width % self.num_groups:
                raise InputError(f"level {level} is {width} channels wide, which is no multiple of {self.num_groups}, "
                                 "the groups of every normalisation")  # fmt: skip
            attends = level in self.attention_levels or level == innermost  # as `middle` does
            if attends and width % (self.head_channels or self.num_heads):
                raise InputError(f"{heads} do not divide the {width} channels of level {level}")

    @property
    def num_levels(self) -> int:
        return len(self.channel_mult)

    @property
    def num_branches(self) -> int:
        """K, the number of skip connections; branches are 0 (outermost) … K-1 (next to `middle`)."""
        return self.num_levels * (self.num_res_blocks + 1)

    @property
    def embed_dim(self) -> int:
        return 4 * self.channels

    def width(self, level: int) -> int:
        """Channels of `level`."""
        return round(self.channel_mult[level] * self.channels)

    def heads(self, channels: int) -> int:
        """Attention heads in a block of `channels` channels."""
        return self.num_heads or channels // self.head_channels

    def branch(self, index: int) -> Branch:
        """Where branch `index` lies. Every level holds num_res_blocks + 1 skips: its entry (conv_in, or the
        downsampling that leads into it), then its residual blocks."""
        level, block = divmod(index, self.num_res_blocks + 1)
        skip = self.width(level if block else max(level - 1, 0))
        inner = self.width(min((index + 1) // (self.num_res_blocks + 1), self.num_levels - 1))
        return Branch(level, block, skip_channels=skip, entering_channels=inner)


class Branch(NamedTuple):
    """One skip connection: down[i] produces it, up[i] consumes it."""

    level: int
    block: int  # 0: the level's entry; 1 … num_res_blocks: its residual blocks
    skip_channels: int  # of the skip
    entering_channels: int  # of the feature that enters up[i], before the skip is concatenated


@dataclass(frozen=True)
class FirstStageConfig:
    """A first stage: the autoencoder between images and the latents that a U-Net works on (Rombach et al. 2022).

    Everything but scale_factor is determined by a checkpoint's keys and shapes.
    """

    channel_mult: list[int] = MISSING  # one per level, at the image first; each further level halves the sides
    latent_channels: int = MISSING
    codebook_size: int | None = None  # VQ: latents are quantised to this many codes before decoding; None: KL
    channels: int = 128  # width that channel_mult multiplies
    num_res_blocks: int = 2  # per level of the encoder; the decoder has one more
    attention_levels: list[int] = field(default_factory=list)
    middle_attention: bool = True
    image_channels: int = 3
    scale_factor: float = 1.0  # the U-Net's latents are the autoencoder's times this

    # What every public first stage has; the names under which residual blocks ask any configuration.
    num_groups: ClassVar[int] = 32
    norm_eps: ClassVar[float] = 1e-6
    embed_dim: ClassVar[None] = None  # no timestep, hence no embedding of it
    scale_shift_norm: ClassVar[bool] = False
    dropout: ClassVar[float] = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "channel_mult", tuple(self.channel_mult))
        object.__setattr__(self, "attention_levels", tuple(sorted(self.attention_levels)))
        for name in ("latent_channels", "channels", "num_res_blocks", "image_channels", "codebook_size"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise InputError(f"first stage: {name} must be at least 1, not {getattr(self, name)}")
        if not self.channel_mult:
            raise InputError("first stage: channel_mult must have one entry per level, e.g. [1, 2, 4]")
        if any(not 0 <= level < self.num_levels for level in self.attention_levels):
            raise InputError(f"first stage: attention_levels {list(self.attention_levels)} must lie in "
                             f"0..{self.num_levels - 1}")  # fmt: skip
        for width in (self.channels, *map(self.width, range(self.num_levels))):
            if width < 1 or width % self.num_groups:
                raise InputError(f"first stage: {self.num_groups} groups do not divide its {width} channels")
        if not 0 < self.scale_factor < math.inf:
            raise InputError(f"first stage: scale_factor must be a finite number above 0, not {self.scale_factor}")

    @property
    def num_levels(self) -> int:
        return len(self.channel_mult)

    @property
    def downsampling(self) -> int:
        """f, the side of an image over the side of its latent."""
        return 2 ** (self.num_levels - 1)

    def width(self, level: int) -> int:
        """Channels of `level`."""
        return self.channel_mult[level] * self.channels
