"""What does not change during a run, computed once: projections of timestep embeddings, keys and values of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from models.attention import CrossAttention, TransformerBlock
from models.blocks import ResBlock
from models.feature import Feature, each
from models.unet import UNet


class Columns(nn.Module):
    """A residual block's columns of the projections of all blocks; stands where its own projection stood."""

    def __init__(self, start: int, stop: int) -> None:
        super().__init__()
        self.start, self.stop = start, stop

    def forward(self, projections: Tensor) -> Tensor:
        """(B, of all blocks) -> (B, of this block)."""
        return projections[:, self.start : self.stop]


class Projections(nn.Module):
    """The projections of the embedding in all residual blocks of a network, side by side.

    Without class labels they depend on the timestep alone: of every integer one, 0 … num_timesteps - 1, there is a row
    in a table.
    """

    def __init__(self, unet: UNet, num_timesteps: int) -> None:
        """Takes the projections out of the blocks of `unet`, which read their columns from then on."""
        super().__init__()
        self.linears = nn.ModuleList()
        start = 0
        for block in [module for module in unet.modules() if isinstance(module, ResBlock)]:
            self.linears.append(block.embed)
            block.embed = Columns(start, start + block.embed.out_features)
            start = block.embed.stop
        self.register_buffer("table", None, persistent=False)
        if unet.config.num_classes is None:
            t = torch.arange(num_timesteps, device=unet.time_in.weight.device)
            with torch.no_grad():
                self.table = self(F.silu(unet.embed_timestep(t)))

    def forward(self, emb: Tensor) -> Tensor:
        """emb (B, embed_dim) after its SiLU -> (B, of all blocks)."""
        return torch.cat([linear(emb) for linear in self.linears], dim=1)

    def knows(self, t: Tensor) -> bool:
        """Can these timesteps be looked up? Asks nothing of the device: integers are taken to be in the table."""
        return self.table is not None and not t.is_floating_point()


class KeysValues(NamedTuple):
    """What one cross-attention makes of a context of several tokens."""

    k: Tensor  # (B, heads, M, d)
    v: Tensor


class Bound:
    """A context as all cross-attentions of a network see it; indexed by rows as the tensor (B, M, D) that it was."""

    def __init__(self, of: Sequence[Feature]) -> None:
        self.of = list(of)

    def __getitem__(self, rows: Tensor) -> Bound:
        return Bound([each(lambda tensor: tensor[rows], seen) for seen in self.of])


class BoundAttention(nn.Module):
    """Cross-attention, with the normalisation before it, to what `bind` has made of the context."""

    def __init__(self, norm: nn.LayerNorm, attn: CrossAttention, index: int) -> None:
        super().__init__()
        self.norm, self.attn, self.index = norm, attn, index

    def bind(self, context: Tensor) -> Feature:
        """context (B, M, D) -> its keys and values; of a single token, which everything attends to in full, the
        output itself, (B, 1, C)."""
        if context.shape[1] == 1:
            return self.attn.to_out(self.attn.to_v(context))
        return KeysValues(*self.attn.keys_values(context))

    def forward(self, x: Tensor, context: Bound) -> Tensor:
        """x (B, L, C) -> (B, L, C), or (B, 1, C) where that is the same for all positions."""
        seen = context.of[self.index]
        return seen if isinstance(seen, Tensor) else self.attn.look_up(self.norm(x), *seen)


class Contexts(nn.Module):
    """Binds contexts to the cross-attentions of a network. The last two are remembered: guidance may ask for the
    conditional and the unconditional one in turn."""

    def __init__(self, unet: UNet) -> None:
        """Takes the cross-attentions of `unet` out of its blocks, which look up what is bound from then on."""
        super().__init__()
        self.attentions = nn.ModuleList()
        for block in [module for module in unet.modules() if isinstance(module, TransformerBlock)]:
            bound = BoundAttention(block.norm2, block.attn2, len(self.attentions))
            block.norm2, block.attn2 = nn.Identity(), bound
            self.attentions.append(bound)
        self._recent: list[tuple[Tensor, int, Bound]] = []

    def forward(self, context: Tensor) -> Bound:
        """context (B, M, D): recognised by being the same tensor, not by its values, which would be waited for."""
        version = 0 if context.is_inference() else context._version
        for known, then, bound in self._recent:
            if known is context and then == version:
                return bound
        bound = Bound([attention.bind(context) for attention in self.attentions])
        self._recent = [(context, version, bound), *self._recent][:2]
        return bound
