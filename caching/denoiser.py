"""The cached denoiser: the one object that knows network, policy, store and forecaster."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from caching.adaptive import AdaptivePolicy
from caching.forecast import Forecaster, Moment, combine, history_of, weights_of
from caching.plan import NULL, Depth, Plan, cached_branches, check_plan, refreshed
from caching.policies import Policy, plan_of
from caching.store import FeatureStore
from configs import InputError
from models import UNet
from models.feature import Feature


class CachedDenoiser:
    """A U-Net that runs as deep as its policy says, evaluation by evaluation (Ma et al. 2023, DeepCache).

    `begin(num_evals)` starts a trajectory; each call is then one network evaluation:

        cached = CachedDenoiser(unet, Uniform(interval=5, branch=2), Reuse())
        cached.begin(sampler.num_evals)
        for step in sampler.sample(cached, x, noise): ...

    A full pass fills the store; a partial pass at branch b takes the forecast of what enters up[b] and refreshes, for
    nothing, the stored features of the cached branches outside b. A null step calls no network: its output is the
    forecast of the stored outputs.

    forecaster: Reuse() is the paper's; Lagrange() ends far nearer to the uncached images with deterministic samplers.
    Raises InputError for an adaptive policy, which `caching.cached_denoiser` makes a denoiser of.
    """

    def __init__(self, unet: UNet, policy: Policy, forecaster: Forecaster) -> None:
        if isinstance(policy, AdaptivePolicy):
            raise InputError(f"{type(policy).__name__} decides during sampling; caching.cached_denoiser makes the "
                             "denoiser of any policy")  # fmt: skip
        if isinstance(policy, type) or isinstance(forecaster, type):
            raise InputError("CachedDenoiser takes a policy and a forecaster, not their classes: Uniform(), Reuse()")
        self.unet, self.policy = unet, policy
        self.forecaster = forecaster
        self.store = FeatureStore(history_of(forecaster))
        self.plan: Plan = ()
        self.branches: tuple[int, ...] = ()  # at which this trajectory keeps features, outermost first
        self._moments: list[Moment] = []
        self._trace: list[Depth] = []
        self._shape: torch.Size | None = None  # of the batch, within a trajectory

    def begin(self, num_evals: int, log_snr: Sequence[float] | None = None, at: Sequence[int] | None = None) -> None:
        """Starts a trajectory of `num_evals` network evaluations; nothing of an earlier one can be read again.

        log_snr: ln(ᾱ/(1-ᾱ)) at every evaluation (Sampler.eval_log_snr), for forecasters that ask for it.
        at: those evaluations, ascending, that this denoiser is called for, as the unconditional half of guidance is not
          for all; None is every one. A pass that was due at another is made at the next call (see `deferred`).
        Raises InputError where the policy has no plan for it or the plan does not fit the network.
        """
        self.plan, self._trace, self._shape = (), [], None  # whatever is refused below, nothing old goes on
        self.store.reset()
        plan = plan_of(self.policy, num_evals)
        check_plan(plan, num_evals, self.unet.num_branches)
        self._moments = moments(num_evals, log_snr, at)
        self.plan = plan if at is None else deferred(plan, at)
        self.branches = cached_branches(self.plan)

    @property
    def trace(self) -> Plan:
        """The depth of every evaluation made so far in this trajectory."""
        return tuple(self._trace)

    @property
    def traces(self) -> list[Plan]:
        """The trace, which all images share."""
        return [self.trace]

    @property
    def calls(self) -> int:
        """Network evaluations made so far in this trajectory."""
        return len(self._trace)

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """One network evaluation: x (B, C, H, W), t (B,), cond as UNet.forward -> eps (B, out_channels, H, W).

        Raises InputError when called more often than begin() said, or before it, and for a batch of another shape than
        at the trajectory's first evaluation.
        """
        check_under_way(self.calls, len(self.plan))
        self._shape = same_shape(x, self._shape)
        depth, now = self.plan[self.calls], self._moments[self.calls]
        feature = None if depth is None else self._forecast(depth, now)
        eps = self._null_step(feature) if depth == NULL else self._pass(x, t, cond, depth, feature, now)
        self._trace.append(depth)
        return eps

    def _pass(
        self, x: Tensor, t: Tensor, cond: Tensor | None, depth: Depth, feature: Feature | None, now: Moment
    ) -> Tensor:
        fresh = refreshed(self.branches, depth)
        taps = [branch for branch in fresh if branch != NULL]
        eps, kept = self.unet(x, t, cond, branch=depth, feature=feature, taps=taps)
        if NULL in fresh:
            kept = {**kept, NULL: eps}
        for branch, entering in kept.items():
            self.store.write(branch, entering, now)
        return eps

    def _null_step(self, output: Tensor) -> Tensor:
        return output.clone()  # what is reused as it is lies in the store; multistep samplers keep what they get

    def _forecast(self, branch: int, now: Moment) -> Feature:
        return combine(*self._weigh(branch, now))

    def _weigh(self, branch: int, now: Moment) -> tuple[list[float], list[Feature]]:
        """The stored features of a branch, and before them their weights."""
        stored, features = self.store.read(branch)
        return weights_of(self.forecaster, stored, now, branch), features


def moments(num_evals: int, log_snr: Sequence[float] | None, at: Sequence[int] | None = None) -> list[Moment]:
    """The moments of a trajectory's evaluations, or of those `at` which its denoiser is called.

    Raises InputError where there is not one log-SNR for each evaluation, and for an `at` that does not ascend within
    them.
    """
    if log_snr is not None and len(log_snr) != num_evals:
        raise InputError(f"log_snr has {len(log_snr)} entries for {num_evals} network evaluations")
    at = range(num_evals) if at is None else at
    if list(at) != sorted(set(at)) or any(not 0 <= i < num_evals for i in at):
        raise InputError(f"the evaluations that a denoiser is called at must ascend within 0..{num_evals - 1}, not "
                         f"{list(at)}")  # fmt: skip
    return [Moment(i) if log_snr is None else Moment(i, log_snr[i]) for i in at]


def deferred(plan: Plan, at: Sequence[int]) -> Plan:
    """The plan of a denoiser that is called at the evaluations `at` alone: at each the deepest of the passes planned
    since the one before. So its first is full, and no feature is used for longer than planned if a call could renew it.
    """
    starts = [0, *(i + 1 for i in at)]
    return tuple(_deepest(plan[start : i + 1]) for start, i in zip(starts, at, strict=False))


def _deepest(depths: Plan) -> Depth:
    return max(depths, key=lambda depth: math.inf if depth is None else depth)


def same_shape(x: Tensor, before: torch.Size | None) -> torch.Size:
    """The shape of a batch. Raises InputError where it is another than `before` in the same trajectory."""
    if before is not None and x.shape != before:
        raise InputError(f"the batch changed shape within a trajectory, from {list(before)} to {list(x.shape)}; call "
                         "begin() first")  # fmt: skip
    return x.shape


def check_under_way(done: int, num_evals: int) -> None:
    """Raises InputError unless a trajectory of `num_evals` evaluations has one left after `done`."""
    if done >= num_evals:
        raise InputError(f"the trajectory of {num_evals} network evaluations is over; call begin(num_evals) before "
                         "the next one")  # fmt: skip
