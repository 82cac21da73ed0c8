"""The adaptively cached denoiser: every image of a batch is refreshed when its own probe asks for it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from caching.adaptive import AdaptivePolicy, Probe
from caching.denoiser import CachedDenoiser, check_under_way, moments, same_shape
from caching.forecast import Forecaster, Moment, history_of, weights_of
from caching.plan import Depth, Plan
from caching.policies import Policy
from caching.registry import asking
from caching.store import ImageStore, beside
from configs import InputError
from models import UNet


class AdaptiveDenoiser:
    """A U-Net whose depth is decided during sampling, by an AdaptivePolicy, for every image by itself.

    Used as CachedDenoiser: `begin(num_evals)`, then one call per network evaluation. Each runs down[0..b] for the whole
    batch, probes skip b, and runs what lies deeper than b for those images alone that are due (gathered into a smaller
    batch, of any size). What enters up[b] is theirs, or the forecast from the image's own history; the whole batch goes
    up together. So an image costs a full pass where it is refreshed and a partial pass elsewhere, and its result does
    not depend on its batch mates, but for the rounding of kernels that differ with the batch size. (Where a probe comes
    within rounding of its limit, that may decide.)

    The host waits for the device once per evaluation, to read the probes.

    rows_per_image: 2 for guidance in one call, where the batch is [uncond, cond] and rows i and i + B are of image i.
      They decide together, by the larger change: guidance scales up the difference of the two predictions, so errors
      that both share cancel, and those of one half that is fresh and one that is stale do not.
    """

    def __init__(self, unet: UNet, policy: AdaptivePolicy, forecaster: Forecaster, rows_per_image: int = 1) -> None:
        self.unet, self.policy, self.rows_per_image = unet, policy, rows_per_image
        self.forecaster = forecaster
        self.store = ImageStore(history_of(forecaster))
        self.calls = 0  # network evaluations made so far in this trajectory
        self._num_evals = 0
        self._moments: list[Moment] = []
        self._images: list[_Image] = []
        self._shape: torch.Size | None = None  # of the batch, within a trajectory
        self._refresh: Tensor | None = None  # skip b of every row (B, C, H, W) at its last refresh,
        self._before: Tensor | None = None  # and at the evaluation before this one

    def begin(self, num_evals: int, log_snr: Sequence[float] | None = None, at: Sequence[int] | None = None) -> None:
        """As CachedDenoiser.begin. Raises InputError where the network lacks the policy's branch."""
        self._moments, self.calls, self._images, self._shape = [], 0, [], None
        self._refresh = self._before = None
        self.store.reset()
        inner = self.unet.num_branches - 1
        if not 0 <= self.policy.branch <= inner:
            raise InputError(f"the policy's branch {self.policy.branch} does not exist; this network has branches 0 "
                             f"(outermost) to {inner}")  # fmt: skip
        self._moments, self._num_evals = moments(num_evals, log_snr, at), num_evals

    @property
    def _now(self) -> Moment:
        return self._moments[self.calls]

    @property
    def branches(self) -> tuple[int, ...]:
        """The branch at which features are kept."""
        return (self.policy.branch,)

    @property
    def traces(self) -> list[Plan]:
        """For each image the depth of every evaluation made so far in this trajectory."""
        return [tuple(image.trace) for image in self._images]

    def __call__(self, x: Tensor, t: Tensor, cond: Tensor | None = None) -> Tensor:
        """One network evaluation: x (B, C, H, W), t (B,), cond as UNet.forward -> eps (B, out_channels, H, W).

        Raises InputError when called more often than begin() said, or before it, and for a batch of another shape than
        at the trajectory's first evaluation.
        """
        check_under_way(self.calls, len(self._moments))
        self.unet.check_size(x)
        self._shape = same_shape(x, self._shape)
        self._images = self._images or self._images_of(len(x))
        branch = self.policy.branch
        emb, context = self.unet.embed(t, cond)
        skips = self.unet.descend(x, emb, context, 0, branch + 1)
        rows = self._decide(skips[branch])
        entering = self._entering(skips[branch], emb, context, rows)
        h, _ = self.unet.ascend(entering, skips, emb, context)
        self.calls += 1
        return self.unet.head(h)

    def _decide(self, skip: Tensor) -> list[int]:
        """Probes skip b (B, C, H, W) -> the rows to refresh, ascending; notes the decisions in the traces."""
        now = self._now
        due = [True] * len(self._images)
        if self._refresh is not None and self._before is not None:
            both = torch.stack([_relative_change(skip, self._refresh), _relative_change(skip, self._before)])
            by_image = both.unflatten(1, (self.rows_per_image, len(due))).amax(1)
            changes, steps = by_image.tolist()  # waits for the device
            for i, image in enumerate(self._images):
                image.probe(changes[i], steps[i])
                due[i] = _is_due(self.policy, image.as_probe(now, self._num_evals))
        for image, is_due in zip(self._images, due, strict=True):
            image.decide(None if is_due else self.policy.branch, now.evaluation)
        rows = [row for row, is_due in enumerate(due * self.rows_per_image) if is_due]
        self._before = skip
        if self._refresh is None:
            self._refresh = skip
        elif rows:
            index = beside(skip, rows)
            self._refresh = self._refresh.index_copy(0, index, skip[index])
        return rows

    def _entering(self, skip: Tensor, emb: Tensor, context: Tensor | None, rows: list[int]) -> Tensor:
        """What enters up[b] (B, C, H, W): made anew for `rows`, forecast for the others."""
        if len(rows) == len(skip):
            fresh = self._deep(skip, emb, context)
            self.store.write(rows, fresh, self._now)
            return fresh
        if rows:
            index = beside(skip, rows)
            fresh = self._deep(skip[index], emb[index], None if context is None else context[index])
            self.store.write(rows, fresh, self._now)
        return self.store.combine(self._weights(len(skip)))

    def _deep(self, skip: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        """All that lies deeper than branch b: skip b -> what enters up[b]."""
        unet, inside = self.unet, self.policy.branch + 1
        skips = unet.descend(skip, emb, context, inside, unet.num_branches)
        h = unet.middle(skips[-1] if skips else skip, emb, context)
        return unet.ascend(h, skips, emb, context, stop=inside)[0]

    def _weights(self, num_rows: int) -> list[Sequence[float]]:
        """The forecaster's weights of every row; a feature made at this very evaluation is taken as it is."""
        now, branch = self._now, self.policy.branch
        histories = [self.store.moments(row) for row in range(num_rows)]
        weights: dict[tuple[Moment, ...], Sequence[float]] = {}
        for stored in set(histories):
            is_fresh = stored[0] == now
            weights[stored] = [1.0] if is_fresh else weights_of(self.forecaster, stored, now, branch)
        return [weights[history] for history in histories]

    def _images_of(self, num_rows: int) -> list[_Image]:
        if num_rows % self.rows_per_image:
            raise InputError(f"a batch of {num_rows} rows is no multiple of the {self.rows_per_image} rows that an "
                             "image has under guidance")  # fmt: skip
        return [_Image() for _ in range(num_rows // self.rows_per_image)]


Cached = CachedDenoiser | AdaptiveDenoiser


def cached_denoiser(
    unet: UNet, policy: Policy | AdaptivePolicy, forecaster: Forecaster, rows_per_image: int = 1
) -> Cached:
    """The denoiser that a policy of either kind needs. rows_per_image: see AdaptiveDenoiser; a static plan is the same
    for all rows."""
    if isinstance(policy, AdaptivePolicy):
        return AdaptiveDenoiser(unet, policy, forecaster, rows_per_image)
    return CachedDenoiser(unet, policy, forecaster)


class _Image:
    """One image's decisions so far, and its probes since the last refresh."""

    def __init__(self) -> None:
        self.trace: list[Depth] = []
        self.changes: list[float] = []
        self.steps: list[float] = []
        self.refreshed = 0  # the evaluation of the last refresh

    def as_probe(self, now: Moment, num_evals: int) -> Probe:
        changes, steps = tuple(self.changes), tuple(self.steps)
        return Probe(now.evaluation, num_evals, self.refreshed, changes, steps, now.log_snr)

    def probe(self, change: float, step: float) -> None:
        self.changes.append(change)
        self.steps.append(step)

    def decide(self, depth: Depth, evaluation: int) -> None:
        self.trace.append(depth)
        if depth is None:
            self.changes, self.steps, self.refreshed = [], [], evaluation


def _is_due(policy: AdaptivePolicy, probe: Probe) -> bool:
    """What a policy, whoever wrote it, decides. Raises InputError where that is neither yes nor no."""
    with asking(policy, "due"):
        due = policy.due(probe)
    if not isinstance(due, bool | np.bool_):
        raise InputError(f"{type(policy).__name__}.due gives {due!r}; it must give True (refresh) or False")
    return bool(due)


def _relative_change(now: Tensor, then: Tensor) -> Tensor:
    """|now - then| / |then| of every row (B,), L2 norms in float32."""
    now, then = now.float().flatten(1), then.float().flatten(1)
    return torch.linalg.vector_norm(now - then, dim=1) / torch.linalg.vector_norm(then, dim=1)
