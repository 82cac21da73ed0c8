"""Classifier-free guidance (Ho & Salimans 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from configs import InputError
from samplers.contract import ConditionalDenoiser, Denoiser


def guide(
    denoiser: ConditionalDenoiser,
    cond: Tensor | None = None,
    uncond: Tensor | None = None,
    scale: float = 1.0,
    *,
    uncond_denoiser: ConditionalDenoiser | None = None,
) -> Denoiser:
    """The denoiser that samplers take, from one that takes `cond`: eps = eps_u + scale (eps_c - eps_u).

    cond: (B,) class labels, (B, L, D) context, or None for an unconditional network.
    uncond: what stands for no condition, shaped as cond: null labels, the context of the empty prompt.
    scale: 1 is the condition alone (the paper's w is scale - 1).
    uncond_denoiser: predicts eps_u in a call of its own, so that it can have a cache of its own; else both
      predictions are one call on the batch [uncond, cond], which shares the caching decisions (CompVis, DeepCache).

    At scale 1 and without uncond the network is called once, on cond, as in CompVis.
    Raises InputError where cond and uncond differ in shape.
    """
    if uncond is None or scale == 1:
        return lambda x, t: denoiser(x, t, cond)
    if cond is None or cond.shape != uncond.shape:
        shape = None if cond is None else tuple(cond.shape)
        raise InputError(
            f"guidance needs cond and uncond of one shape, but theirs are {shape} and {tuple(uncond.shape)}"
        )
    if uncond_denoiser is not None:
        return lambda x, t: extrapolate(uncond_denoiser(x, t, uncond), denoiser(x, t, cond), scale, x.shape[1])

    both = torch.cat([uncond, cond])

    def guided(x: Tensor, t: Tensor) -> Tensor:
        eps_u, eps_c = denoiser(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return extrapolate(eps_u, eps_c, scale, x.shape[1])

    return guided


def extrapolate(eps_u: Tensor, eps_c: Tensor, scale: float, channels: int) -> Tensor:
    """eps_u + scale (eps_c - eps_u) (CompVis; Ho & Salimans 2022, eq. 6).

    Channels beyond the first `channels` are a learned variance: the conditional one is kept as it is (GLIDE, DiT).
    """
    eps = eps_u + scale * (eps_c - eps_u)
    eps[:, channels:] = eps_c[:, channels:]
    return eps
