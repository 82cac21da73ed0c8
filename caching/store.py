"""The feature store: which features are kept, and from when."""

from __future__ import annotations

from torch import Tensor

from configs import InputError


class FeatureStore:
    """The last `history` features of every cached branch, in buffers of fixed shape that are written in place.

    Buffers outlive a trajectory (programs compiled against them stay valid); what they hold does not: after `reset`
    nothing can be read before it has been written again.
    """

    def __init__(self, history: int = 1) -> None:
        self.history = history
        self._buffers: dict[int, list[Tensor]] = {}
        self._written: dict[int, list[tuple[int, int]]] = {}  # branch -> (evaluation, slot), newest first

    def reset(self) -> None:
        """Forgets every feature."""
        self._written.clear()

    def write(self, branch: int, feature: Tensor, evaluation: int) -> None:
        """Keeps `feature` (B, C, H, W), which entered up[branch] at network evaluation `evaluation`."""
        written = self._written.setdefault(branch, [])
        slots = self._buffers.get(branch, [])
        if not slots or not _alike(slots[0], feature):
            if written:
                raise InputError(f"the batch changed shape within a trajectory, from {list(slots[0].shape)} to "
                                 f"{list(feature.shape)} at branch {branch}; call begin() first")  # fmt: skip
            slots = self._buffers[branch] = [feature.new_empty(feature.shape) for _ in range(self.history)]
        slot = written.pop()[1] if len(written) == self.history else len(written)
        slots[slot].copy_(feature)
        written.insert(0, (evaluation, slot))

    def read(self, branch: int) -> tuple[list[int], list[Tensor]]:
        """The evaluations at which the kept features of `branch` were written, newest first, and the features.

        Raises InputError where none has been written since the last `reset`.
        """
        written = self._written.get(branch)
        if not written:
            raise InputError(f"no feature of branch {branch} has been stored in this trajectory")
        return [evaluation for evaluation, _ in written], [self._buffers[branch][slot] for _, slot in written]

    @property
    def nbytes(self) -> int:
        """Bytes held by the buffers."""
        return sum(buffer.nbytes for slots in self._buffers.values() for buffer in slots)


def _alike(buffer: Tensor, feature: Tensor) -> bool:
    return (buffer.shape, buffer.dtype, buffer.device) == (feature.shape, feature.dtype, feature.device)
