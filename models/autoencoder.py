"""First stages: the autoencoders between images and the latents that a U-Net works on (Rombach et al. 2022)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from configs import InputError
from models.attention import SelfAttention
from models.blocks import Downsample, ResBlock, Stage, Upsample
from models.config import FirstStageConfig


class Place(NamedTuple):
    """Where a stage of an encoder or decoder lies."""

    part: str  # block, middle (0 and 1), down or up
    level: int
    block: int
    in_channels: int
    out_channels: int


def encoder_places(config: FirstStageConfig) -> Iterator[Place]:
    """The encoder's stages in the order in which they run: levels from the image inwards, then the middle."""
    width = config.channels
    for level in range(config.num_levels):
        for block in range(config.num_res_blocks):
            yield Place("block", level, block, width, config.width(level))
            width = config.width(level)
        if level < config.num_levels - 1:
            yield Place("down", level, 0, width, width)
    for block in (0, 1):
        yield Place("middle", config.num_levels - 1, block, width, width)


def decoder_places(config: FirstStageConfig) -> Iterator[Place]:
    """The decoder's stages in the order in which they run: the middle, then levels outwards to the image."""
    width = config.width(config.num_levels - 1)
    for block in (0, 1):
        yield Place("middle", config.num_levels - 1, block, width, width)
    for level in reversed(range(config.num_levels)):
        for block in range(config.num_res_blocks + 1):
            yield Place("block", level, block, width, config.width(level))
            width = config.width(level)
        if level > 0:
            yield Place("up", level, 0, width, width)


class Coder(nn.Module):
    """An encoder or a decoder: conv_in, stages, GroupNorm, SiLU, conv_out."""

    def __init__(self, config: FirstStageConfig, places: Iterator[Place], in_channels: int, out_channels: int) -> None:
        super().__init__()
        places = list(places)
        self.conv_in = nn.Conv2d(in_channels, places[0].in_channels, 3, padding=1)
        self.stages = nn.ModuleList(_stage(config, place) for place in places)
        self.norm_out = nn.GroupNorm(config.num_groups, places[-1].out_channels, config.norm_eps)
        self.conv_out = nn.Conv2d(places[-1].out_channels, out_channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        h = self.conv_in(x)
        for stage in self.stages:
            h = stage(h)
        return self.conv_out(F.silu(self.norm_out(h)))


def _stage(config: FirstStageConfig, place: Place) -> Stage:
    if place.part == "down":
        return Stage(resample=Downsample(place.out_channels, "asymmetric"))
    if place.part == "up":
        return Stage(resample=Upsample(place.out_channels))
    if place.part == "middle":
        attends = place.block == 0 and config.middle_attention
    else:
        attends = place.level in config.attention_levels
    attn = SelfAttention(place.out_channels, heads=1, eps=config.norm_eps) if attends else None
    return Stage(ResBlock(config, place.in_channels, place.out_channels), attn)


class FirstStage(nn.Module):
    """What both kinds of first stage share. `encode` and `decode` speak of latents as the U-Net sees them, that is,
    multiplied by config.scale_factor."""

    moments: int  # outputs of the encoder per latent channel

    def __init__(self, config: FirstStageConfig) -> None:
        super().__init__()
        self.config = config
        channels = self.moments * config.latent_channels
        self.encoder = Coder(config, encoder_places(config), config.image_channels, channels)
        self.conv_moments = nn.Conv2d(channels, channels, 1)
        self.conv_latent = nn.Conv2d(config.latent_channels, config.latent_channels, 1)
        self.decoder = Coder(config, decoder_places(config), config.latent_channels, config.image_channels)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        """Images (B, C, H, W) in [-1, 1] -> latents (B, latent_channels, H/f, W/f).

        noise: standard normal, shaped as the latents; a KL first stage then samples its posterior instead of giving
        its mean. A VQ first stage has no posterior and ignores it.
        Raises InputError where f does not divide the sides.
        """
        raise NotImplementedError

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, latent_channels, h, w) -> images (B, C, f·h, f·w), about [-1, 1] and not clamped."""
        return self.decoder(self.conv_latent(latents / self.config.scale_factor))

    def _encode_moments(self, images: Tensor) -> Tensor:
        f, (height, width) = self.config.downsampling, images.shape[2:]
        if height % f or width % f:
            raise InputError(f"images of {height}x{width} cannot be encoded; both sides must be multiples of {f}")
        return self.conv_moments(self.encoder(images))


class Posterior(NamedTuple):
    """q(z | image): a normal distribution with diagonal covariance; mean and logvar (B, latent_channels, h, w)."""

    mean: Tensor
    logvar: Tensor

    @property
    def std(self) -> Tensor:
        return (self.logvar / 2).exp()

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.std * noise


class KLFirstStage(FirstStage):
    """An autoencoder whose latents are regularised towards the standard normal distribution."""

    moments = 2

    def posterior(self, images: Tensor) -> Posterior:
        mean, logvar = self._encode_moments(images).chunk(2, dim=1)
        return Posterior(mean, logvar.clamp(-30, 20))

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        posterior = self.posterior(images)
        z = posterior.mean if noise is None else posterior.sample(noise)
        return z * self.config.scale_factor


class VQFirstStage(FirstStage):
    """An autoencoder whose decoder sees the nearest codes of a codebook (van den Oord et al. 2017).

    Diffusion works on the latents before they are quantised; decoding quantises them first.
    """

    moments = 1

    def __init__(self, config: FirstStageConfig) -> None:
        super().__init__(config)
        self.codebook = nn.Embedding(config.codebook_size, config.latent_channels)

    def encode(self, images: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._encode_moments(images) * self.config.scale_factor

    def quantise(self, z: Tensor) -> Tensor:
        """z (B, latent_channels, h, w) -> indices (B, h, w) of the codes with the least |z - e|²."""
        # Image by image: the distances of one are already h·w·codebook_size numbers, 134 MB for VQ-f4 at 256x256.
        return torch.stack([self._nearest(image) for image in z])

    def decode(self, latents: Tensor) -> Tensor:
        codes = self.codebook(self.quantise(latents / self.config.scale_factor))
        return self.decoder(self.conv_latent(codes.permute(0, 3, 1, 2)))

    def _nearest(self, z: Tensor) -> Tensor:
        """z (latent_channels, h, w) -> (h, w)."""
        # Half precision would lose the difference between neighbouring codes.
        points, codes = z.flatten(1).T.float(), self.codebook.weight.float()
        # |z - e|² = |z|² + |e|² - 2 z·e, whose first term is the same for every code.
        distances = codes.square().sum(1) - 2 * points @ codes.T
        return distances.argmin(1).reshape(z.shape[1:])


def first_stage(config: FirstStageConfig) -> FirstStage:
    """The first stage that `config` describes."""
    return KLFirstStage(config) if config.codebook_size is None else VQFirstStage(config)
