"""The feature stores: which features are kept, and from when."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from caching.forecast import Moment
from configs import InputError
from models.feature import Feature, each, tensors


class FeatureStore:
    """The last `history` features of every cached branch, in buffers of fixed shape that are written in place; one
    buffer per tensor where a network's features have several.

    Buffers outlive a trajectory (programs compiled against them stay valid); what they hold does not: after `reset`
    nothing can be read before it has been written again.
    """

    def __init__(self, history: int = 1) -> None:
        self.history = history
        self._buffers: dict[int, list[Feature]] = {}
        self._written: dict[int, list[tuple[Moment, int]]] = {}  # branch -> (when, slot), newest first

    def reset(self) -> None:
        """Forgets every feature."""
        self._written.clear()

    def write(self, branch: int, feature: Feature, now: Moment) -> None:
        """Keeps `feature`, of tensors (B, C, H, W), which entered up[branch] `now`."""
        written = self._written.setdefault(branch, [])
        slots = self._buffers.get(branch, [])
        if not slots or not _alike(slots[0], feature):
            if written:
                raise InputError(f"the batch changed shape within a trajectory, from {_shape(slots[0])} to "
                                 f"{_shape(feature)} at branch {branch}; call begin() first")  # fmt: skip
            slots = self._buffers[branch] = [each(torch.empty_like, feature) for _ in range(self.history)]
        slot = written.pop()[1] if len(written) == self.history else len(written)
        each(Tensor.copy_, slots[slot], feature)
        written.insert(0, (now, slot))

    def read(self, branch: int) -> tuple[list[Moment], list[Feature]]:
        """When the kept features of `branch` were made, newest first, and the features.

        Raises InputError where none has been written since the last `reset`.
        """
        written = self._written.get(branch)
        if not written:
            raise InputError(f"no feature of branch {branch} has been stored in this trajectory")
        return [moment for moment, _ in written], [self._buffers[branch][slot] for _, slot in written]

    @property
    def nbytes(self) -> int:
        """Bytes held by the buffers."""
        return sum(part.nbytes for slots in self._buffers.values() for buffer in slots for part in tensors(buffer))


class ImageStore:
    """The last `history` features of one branch for every row of a batch, whose rows are written at evaluations of
    their own. The slots of a row are filled in turn; its n-th feature lies in slot n mod history.

    As in FeatureStore, the buffer outlives a trajectory, and what it holds does not.
    """

    def __init__(self, history: int = 1) -> None:
        self.history = history
        self._slots: Tensor | None = None  # (history · B, C, H, W), slot 0 of every row first
        self._written: list[list[Moment]] = []  # by row: when all its features were made, oldest first

    def reset(self) -> None:
        """Forgets every feature."""
        self._written = []

    def write(self, rows: Sequence[int], features: Tensor, now: Moment) -> None:
        """Keeps the features (len(rows), C, H, W) of these rows, which entered the branch `now`. The first write after
        a reset is of all rows."""
        if not self._written:
            self._slots = self._empty(features)
            self._written = [[] for _ in rows]
        size = len(self._written)
        index = [len(self._written[row]) % self.history * size + row for row in rows]
        self._slots.index_copy_(0, beside(features, index), features)
        for row in rows:
            self._written[row].append(now)

    def moments(self, row: int) -> tuple[Moment, ...]:
        """When the kept features of `row` were made, newest first."""
        return tuple(self._written[row][: -self.history - 1 : -1])

    def combine(self, weights: Sequence[Sequence[float]]) -> Tensor:
        """Σ_k w_k F_k for every row (B, C, H, W). weights: of each row, one per kept feature, newest first.

        Raises InputError where nothing has been written since the last `reset`.
        """
        if not self._written:
            raise InputError("no feature has been stored in this trajectory")
        by_slot = [[0.0] * len(weights) for _ in range(self.history)]
        for row, of_row in enumerate(weights):
            newest = len(self._written[row]) - 1
            for k, weight in enumerate(of_row):
                by_slot[(newest - k) % self.history][row] = weight
        # In float32 at the least: half precision cannot hold every weight.
        precise = torch.promote_types(self._slots.dtype, torch.float32)
        columns = beside(self._slots, by_slot, precise)[:, :, None, None, None]
        first, *others = self._slots.chunk(self.history)
        total = columns[0] * first
        for column, features in zip(columns[1:], others, strict=True):
            total += column * features
        return total.to(self._slots.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes held by the buffer."""
        return 0 if self._slots is None else self._slots.nbytes

    def _empty(self, features: Tensor) -> Tensor:
        """The buffer for batches like this one, zeroed: slots that a row has not filled yet are read with weight 0."""
        known, rows = self._slots, len(features)
        if known is not None and len(known) == self.history * rows and _alike(known[:rows], features):
            return known.zero_()
        return torch.cat([torch.zeros_like(features)] * self.history)


def beside(other: Tensor, numbers: Sequence, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor of these numbers on the device of `other`. On a GPU it comes from pinned memory: any other copy waits
    for all the work queued there."""
    return torch.tensor(numbers, dtype=dtype, pin_memory=other.is_cuda).to(other.device, non_blocking=True)


def _alike(buffer: Feature, feature: Feature) -> bool:
    """Can `feature` be copied into `buffer`, as it is?"""

    def kind(one: Feature) -> list[tuple]:
        return [(part.shape, part.dtype, part.device) for part in tensors(one)]

    # What inference mode made can be written to in inference mode alone.
    can_write = torch.is_inference_mode_enabled() or not any(part.is_inference() for part in tensors(buffer))
    return can_write and type(buffer) is type(feature) and kind(buffer) == kind(feature)


def _shape(feature: Feature) -> list[int]:
    return list(tensors(feature)[0].shape)
