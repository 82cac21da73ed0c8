"""Classifier-free guidance (Ho & Salimans 2022), and two ways to spend less on it.

Guidance doubles the price of sampling: every evaluation asks for eps_c and for eps_u. Less often will do:

- in an interval of noise levels only (Kynkäänniemi et al. 2024); outside of it eps_c alone is the prediction, and
- with the difference eps_c - eps_u computed anew at every n-th guided evaluation, and held in between.

Which evaluation does what is a `GuidancePlan`, made before sampling starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from configs import InputError, one_of
from samplers.contract import ConditionalDenoiser, Denoiser

# What is asked of the network at each evaluation: "both" predictions; the conditional one, with the difference of the
# last "both" "held"; or the conditional one, with guidance "off".
Guided = Literal["both", "held", "off"]
GuidancePlan = tuple[Guided, ...]


@dataclass(frozen=True)
class GuidanceConfig:
    """How much guidance, and where."""

    scale: float = 1.0  # eps_u + scale (eps_c - eps_u); 1 is none
    # 1: both halves as one batch, cached together (the paper); 2: two calls, each with a cache of its own.
    # null: 1, but 2 with `interval` or `every`, where the halves are not always called together.
    calls: int | None = None
    # [low, high]: guided only where the noise level sigma = sqrt((1 - ᾱ)/ᾱ) lies within; null: everywhere
    interval: list[float] | None = None
    every: int = 1  # eps_c - eps_u is computed at every n-th guided evaluation, and held in between

    def __post_init__(self) -> None:
        if not math.isfinite(self.scale):
            raise InputError(f"guidance.scale must be a finite number, not {self.scale}")
        if self.calls not in (None, 1, 2):
            raise InputError(f"guidance.calls must be 1, 2 or null, not {self.calls}")
        if self.every < 1:
            raise InputError(f"guidance.every must be at least 1 (1 holds nothing), not {self.every}")
        if self.interval is not None and not (len(self.interval) == 2 and 0 <= self.interval[0] < self.interval[1]):
            raise InputError(f"guidance.interval must be two noise levels [low, high] with 0 <= low < high, not "
                             f"{list(self.interval)}")  # fmt: skip
        if self.is_partial and not self.is_on:
            raise InputError("guidance.interval and guidance.every have nothing to limit at guidance.scale=1; set the "
                             "scale, or leave them out")  # fmt: skip
        if self.is_partial and self.calls == 1:
            raise InputError("with guidance.interval or guidance.every the two halves are not always called together; "
                             "leave guidance.calls out, or set it to 2")  # fmt: skip

    @property
    def is_on(self) -> bool:
        """Does eps_u count at all?"""
        return self.scale != 1

    @property
    def is_partial(self) -> bool:
        """May some evaluations do without the unconditional half?"""
        return self.interval is not None or self.every > 1

    @property
    def num_calls(self) -> int:
        """Calls of the network that the two halves are spread over, where both are asked for; 1 without guidance."""
        if not self.is_on:
            return 1
        return self.calls or (2 if self.is_partial else 1)

    @property
    def everywhere(self) -> GuidanceConfig:
        """The same guidance at every evaluation: what `interval` and `every` are compared with."""
        return replace(self, interval=None, every=1)

    def plan(self, log_snr: Sequence[float]) -> GuidancePlan:
        """log_snr: ln(ᾱ/(1-ᾱ)) at every network evaluation (Sampler.eval_log_snr) -> one entry for each.

        Raises InputError where the interval holds none of them.
        """
        low, high = self.interval or (0, math.inf)
        sigmas = [math.exp(-value / 2) for value in log_snr]
        plan: list[Guided] = []
        guided = 0
        for sigma in sigmas:
            if not self.is_on or not low <= sigma <= high:
                plan.append("off")
                continue
            plan.append("held" if guided % self.every else "both")
            guided += 1
        if self.is_on and not guided:
            raise InputError(f"no network evaluation lies in guidance.interval={list(self.interval or [])}; their noise"
                             f" levels run from {max(sigmas):.4g} to {min(sigmas):.4g}")  # fmt: skip
        return tuple(plan)


def uncond_evals(plan: GuidancePlan) -> tuple[int, ...]:
    """The evaluations at which the unconditional half is asked for."""
    return tuple(i for i, entry in enumerate(plan) if entry == "both")


def guide(
    denoiser: ConditionalDenoiser,
    cond: Tensor | None = None,
    uncond: Tensor | None = None,
    scale: float = 1.0,
    *,
    uncond_denoiser: ConditionalDenoiser | None = None,
    plan: GuidancePlan | None = None,
) -> Denoiser:
    """The denoiser that samplers take, from one that takes `cond`: eps = eps_u + scale (eps_c - eps_u).

    cond: (B,) class labels, (B, L, D) context, or None for an unconditional network.
    uncond: what stands for no condition, shaped as cond: null labels, the context of the empty prompt.
    scale: 1 is the condition alone (the paper's w is scale - 1).
    uncond_denoiser: predicts eps_u in a call of its own, so that it can have a cache of its own; else both
      predictions are one call on the batch [uncond, cond], which shares the caching decisions (CompVis, DeepCache).
    plan: one entry per network evaluation of a single trajectory; None is "both" at all of them. Where it holds
      anything else, a denoiser with a cache needs `uncond_denoiser`: its batches must not change size.

    At scale 1 and without uncond the network is called once, on cond, as in CompVis.
    Raises InputError where cond and uncond differ in shape, for a plan that holds a difference before it has one, and
    when called more often than the plan has entries.
    """
    if uncond is None or scale == 1:
        return lambda x, t: denoiser(x, t, cond)
    if cond is None or cond.shape != uncond.shape:
        shape = None if cond is None else tuple(cond.shape)
        raise InputError(
            f"guidance needs cond and uncond of one shape, but theirs are {shape} and {tuple(uncond.shape)}"
        )
    halves = _halves(denoiser, cond, uncond, uncond_denoiser)
    if plan is None:
        return lambda x, t: extrapolate(*halves(x, t), scale, x.shape[1])
    return _follow(plan, halves, lambda x, t: denoiser(x, t, cond), scale)


def extrapolate(eps_u: Tensor, eps_c: Tensor, scale: float, channels: int) -> Tensor:
    """eps_u + scale (eps_c - eps_u) (CompVis; Ho & Salimans 2022, eq. 6).

    Channels beyond the first `channels` are a learned variance: the conditional one is kept as it is (GLIDE, DiT).
    """
    eps = eps_u + scale * (eps_c - eps_u)
    eps[:, channels:] = eps_c[:, channels:]
    return eps


def push(eps_c: Tensor, difference: Tensor, scale: float) -> Tensor:
    """eps_c + (scale - 1) difference: `extrapolate` with eps_c - eps_u given, for its channels; others stay eps_c's."""
    channels = difference.shape[1]
    return torch.cat([eps_c[:, :channels] + (scale - 1) * difference, eps_c[:, channels:]], dim=1)


def _halves(
    denoiser: ConditionalDenoiser, cond: Tensor, uncond: Tensor, uncond_denoiser: ConditionalDenoiser | None
) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """(x, t) -> (eps_u, eps_c), in two calls or in one."""
    if uncond_denoiser is not None:
        return lambda x, t: (uncond_denoiser(x, t, uncond), denoiser(x, t, cond))
    both = torch.cat([uncond, cond])

    def one_call(x: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
        eps_u, eps_c = denoiser(torch.cat([x, x]), torch.cat([t, t]), both).chunk(2)
        return eps_u, eps_c

    return one_call


def _follow(
    plan: GuidancePlan, halves: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], conditional: Denoiser, scale: float
) -> Denoiser:
    """The guided denoiser of one trajectory, which does at each call what the plan's next entry says."""
    for entry in plan:
        one_of(entry, ("both", "held", "off"), "the guidance")
    if "held" in plan and "both" not in plan[: plan.index("held")]:
        raise InputError("the guidance plan holds a difference before it has computed one; begin with both")
    entries = iter(plan)
    difference: Tensor | None = None

    def guided(x: Tensor, t: Tensor) -> Tensor:
        nonlocal difference
        entry = next(entries, None)
        if entry is None:
            raise InputError(f"the guidance plan of {len(plan)} network evaluations is over; every trajectory needs "
                             "a guided denoiser of its own")  # fmt: skip
        if entry == "both":
            eps_u, eps_c = halves(x, t)
            difference = (eps_c - eps_u)[:, : x.shape[1]]
            return extrapolate(eps_u, eps_c, scale, x.shape[1])
        eps_c = conditional(x, t)
        return eps_c if entry == "off" or difference is None else push(eps_c, difference, scale)

    return guided
