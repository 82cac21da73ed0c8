"""Fast U-Nets: transformations of a U-Net that change how its numbers are computed, not the numbers."""

from __future__ import annotations

import copy
from collections.abc import Sequence

from torch import Tensor, nn

from models.constants import Bound, Contexts, Projections
from models.feature import Feature
from models.kernels import optimise
from models.memory_format import memory_format
from models.split import PartialSums, SplitConsumer, whole_groups
from models.unet import UNet


def fast(unet: UNet, num_timesteps: int = 1000) -> FastUNet:
    """A U-Net that computes what `unet` computes, sooner: what the scripts sample with (`engine=fast`).

    num_timesteps: that it was trained on; see FastUNet. The two share their parameters, which are laid out in the
    memory format that suits the device from then on: channels last, but for float32 on a GPU. What it computes from
    them once stays: where parameters change, make it anew. A fast U-Net comes back as it is.
    """
    if isinstance(unet, FastUNet):
        return unet
    return optimise(FastUNet(unet.to(memory_format=memory_format(unet)), num_timesteps))


class FastUNet(UNet):
    """A U-Net whose constants of a run are computed once. Called as the U-Net it was made from, to sample: it shares
    that one's parameters, and has no dropout.

    num_timesteps: timesteps it was trained on; integer ones, 0 … num_timesteps - 1, are looked up, real ones computed.
      Give any others as real numbers: that an integer lies outside of the table shows on the device alone.
    A context is bound when it is first seen: do not change its values in place under inference mode.
    """

    def __init__(self, unet: UNet, num_timesteps: int = 1000) -> None:
        nn.Module.__init__(self)
        shared = {id(parameter): parameter for parameter in unet.parameters()}
        self.__dict__.update(copy.deepcopy(unet, shared).eval().__dict__)
        self.projections = Projections(self, num_timesteps)
        self.contexts = Contexts(self)

    def embed(self, t: Tensor, cond: Tensor | None) -> tuple[Tensor, Bound | None]:
        """The projections of the embedding in all blocks (B, Σ channels), and the context as all blocks see it."""
        self._check_cond(cond)
        context = self.contexts(cond) if self.config.context_dim is not None else None
        if self.projections.knows(t):
            return self.projections.table[t], context
        return self.projections(super().embed(t, cond)[0]), context


class SplitUNet(FastUNet):
    """A fast U-Net whose stored features are split: a tapped branch returns PartialSums, and a partial pass takes them.

    A pass that neither taps a branch nor enters at it runs the branch whole. Shares its modules with `fast`; of the
    branches that have been tapped it holds the first convolution's weights once more, in two slices.
    """

    def __init__(self, fast: FastUNet) -> None:
        nn.Module.__init__(self)
        for name, module in fast.named_children():
            self.add_module(name, module)
        self.config, self.provenance = fast.config, getattr(fast, "provenance", None)
        self.splits = nn.ModuleDict()
        self.eval()

    def forward(
        self,
        x: Tensor,
        t: Tensor,
        cond: Tensor | None = None,
        *,
        branch: int | None = None,
        feature: Feature | None = None,
        taps: Sequence[int] = (),
    ) -> tuple[Tensor, dict[int, Feature]]:
        """As UNet.forward. feature: PartialSums, or what enters up[branch] itself."""
        self._check_pass(x, branch, feature, taps)
        self.split(taps)
        return super().forward(x, t, cond, branch=branch, feature=feature, taps=taps)

    def split(self, branches: Sequence[int]) -> None:
        """Splits these branches, but for one whose feature has no whole group: it is kept as it is."""
        for branch in branches:
            entering = self.config.branch(branch).entering_channels
            if str(branch) not in self.splits and whole_groups(self.up[branch].res.norm1, entering):
                entry = self.down[0].conv if branch == 0 else None
                self.splits[str(branch)] = SplitConsumer(self.up[branch], entering, entry)

    def kept(self, i: int, h: Feature) -> Feature:
        """As UNet.kept: the parts, which go on as they will be used. No work is done twice."""
        is_whole = str(i) in self.splits and not isinstance(h, PartialSums)
        return self.splits[str(i)].keep(h) if is_whole else h

    def consume(self, i: int, h: Feature, skip: Tensor, emb: Tensor, context: Bound | None, x: Tensor | None) -> Tensor:
        """As UNet.consume, of the parts or of the feature itself."""
        if isinstance(h, PartialSums):
            return self.splits[str(i)](h, skip, emb, context, x)
        return super().consume(i, h, skip, emb, context, x)
