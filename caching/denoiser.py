"""The cached denoiser: the one object that knows network, policy, store and forecaster."""

from __future__ import annotations

from torch import Tensor

from caching.forecast import Forecaster, Reuse, combine
from caching.plan import Depth, Plan, cached_branches, check_plan
from caching.policies import Policy
from caching.store import FeatureStore
from configs import InputError
from models import UNet


class CachedDenoiser:
    """A U-Net that runs as deep as its policy says, evaluation by evaluation (Ma et al. 2023, DeepCache).

    `begin(num_evals)` starts a trajectory; each call is then one network evaluation:

        cached = CachedDenoiser(unet, Uniform(interval=5, branch=2))
        cached.begin(sampler.num_evals)
        for step in sampler.sample(cached, x, noise): ...

    A full pass fills the store; a partial pass at branch b takes the forecast of what enters up[b] and refreshes, for
    nothing, the stored features of the cached branches outside b.
    """

    def __init__(self, unet: UNet, policy: Policy, forecaster: Forecaster | None = None) -> None:
        self.unet, self.policy = unet, policy
        self.forecaster = forecaster or Reuse()
        self.store = FeatureStore(self.forecaster.history)
        self.plan: Plan = ()
        self._branches: tuple[int, ...] = ()
        self._trace: list[Depth] = []

    def begin(self, num_evals: int) -> None:
        """Starts a trajectory of `num_evals` network evaluations; nothing of an earlier one can be read again.

        Raises InputError where the policy has no plan for it or the plan does not fit the network.
        """
        self.plan = self.policy.plan(num_evals)
        check_plan(self.plan, num_evals, self.unet.num_branches)
        self._branches = cached_branches(self.plan)
        self._trace = []
        self.store.reset()

    @property
    def trace(self) -> Plan:
        """The depth of every evaluation made so far in this trajectory."""
        return tuple(self._trace)

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """One network evaluation: x (B, C, H, W), t (B,), cond as UNet.forward -> eps (B, out_channels, H, W).

        Raises InputError when called more often than begin() said, or before it.
        """
        now = len(self._trace)
        if now >= len(self.plan):
            raise InputError(f"the trajectory of {len(self.plan)} network evaluations is over; call begin(num_evals) "
                             "before the next one")  # fmt: skip
        depth = self.plan[now]
        feature = None if depth is None else self._forecast(depth, now)
        taps = self._branches if depth is None else [branch for branch in self._branches if branch < depth]
        eps, tapped = self.unet(x, t, cond, branch=depth, feature=feature, taps=taps)
        for branch, entering in tapped.items():
            self.store.write(branch, entering, now)
        self._trace.append(depth)
        return eps

    def _forecast(self, branch: int, now: int) -> Tensor:
        stored, features = self.store.read(branch)
        return combine(self.forecaster.weights(stored, now), features)
