"""The U-Net: K skip branches with explicit indices, and one forward for full and partial passes."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from configs import InputError
from models.attention import attention
from models.blocks import Consumer, Entry, ResBlock, Stage, resample
from models.config import UNetConfig
from models.feature import Feature
from models.timesteps import timestep_embedding


class Middle(nn.Module):
    """The deepest part: residual block, attention, residual block."""

    def __init__(self, config: UNetConfig, channels: int) -> None:
        super().__init__()
        self.res1 = ResBlock(config, channels, channels)
        self.attn = attention(config, channels)
        self.res2 = ResBlock(config, channels, channels)

    def forward(self, h: Tensor, emb: Tensor, context: Tensor | None) -> Tensor:
        return self.res2(self.attn(self.res1(h, emb), context), emb)


class UNet(nn.Module):
    """The noise predictor of Ho et al. 2020, LDM, Stable Diffusion v1 and guided-diffusion.

    down[i] produces skip i and up[i] consumes it, i = 0 (outermost) … K-1 (next to `middle`). Level and block of a
    branch are `divmod(i, num_res_blocks + 1)`; block 0 is the level's entry.
    """

    def __init__(self, config: UNetConfig) -> None:
        super().__init__()
        self.config = config
        deepest = config.width(config.num_levels - 1)
        self.time_in = nn.Linear(config.channels, config.embed_dim)
        self.time_out = nn.Linear(config.embed_dim, config.embed_dim)
        if config.num_classes is not None:
            self.label = nn.Embedding(config.num_classes, config.embed_dim)
        self.down = nn.ModuleList(_down_stage(config, i) for i in range(config.num_branches))
        self.middle = Middle(config, deepest)
        self.up = nn.ModuleList(_up_stage(config, i) for i in range(config.num_branches))
        self.norm_out = nn.GroupNorm(config.num_groups, config.width(0), config.norm_eps)
        self.conv_out = nn.Conv2d(config.width(0), config.out_channels, 3, padding=1)

    @property
    def num_branches(self) -> int:
        return self.config.num_branches

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
        """Predicts the noise in x, by a full pass or by a partial pass around one branch.

        x (B, in_channels, H, W); t (B,) timesteps; cond (B, L, context_dim) cross-attention context, or (B,) class
        labels. branch None runs everything. A branch b runs down[0..b], lets `feature` enter up[b] in the place of
        all that lies deeper, and runs up[b..0] and the head (Ma et al. 2023, DeepCache, eq. 5).
        taps: branches whose entering feature is wanted; a partial pass at b has those of 0..b.

        Returns (eps (B, out_channels, H, W), {tap: entering feature}).
        Raises InputError for sides that the levels cannot halve, for a branch or tap outside 0..K-1 or deeper than this
        pass runs, for a `feature` without `branch` or the reverse, and for a cond of another kind than the network's.
        """
        self._check_pass(x, branch, feature, taps)
        emb, context = self.embed(t, cond)
        return self.run(x, emb, context, branch, feature, taps)

    def run(
        self,
        x: Tensor,
        emb: Tensor,
        context: Tensor | None,
        branch: int | None,
        feature: Feature | None,
        taps: Sequence[int],
    ) -> tuple[Tensor, dict[int, Feature]]:
        """`forward` for an embedding and a context that `embed` made, unchecked."""
        last = self.num_branches - 1 if branch is None else branch
        skips = self.descend(x, emb, context, 0, last + 1)
        h = self.middle(skips[-1], emb, context) if branch is None else feature
        h, tapped = self.ascend(h, skips, emb, context, taps=taps, x=x)
        return self.head(h), tapped

    def embed(self, t: Tensor, cond: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The embedding (B, 4·channels) that every residual block projects (its SiLU applied), and the context.

        Raises InputError for a cond of another kind than the network's.
        """
        self._check_cond(cond)
        emb = self.embed_timestep(t)
        if self.config.num_classes is None:
            return F.silu(emb), cond
        return F.silu(emb + self.label(cond)), None

    def embed_timestep(self, t: Tensor) -> Tensor:
        """t (B,) -> (B, 4·channels)."""
        emb = timestep_embedding(t, self.config.channels, self.config.timestep_embedding)
        return self.time_out(F.silu(self.time_in(emb.to(self.time_in.weight.dtype))))

    # The parts of a pass, for those who look at a skip before they go on: a pass may stop between any two branches.

    def descend(self, h: Tensor, emb: Tensor, context: Tensor | None, start: int, stop: int) -> list[Tensor]:
        """Runs down[start..stop-1] -> their skips. h: skip start - 1, or x (B, in_channels, H, W) where start is 0."""
        skips = []
        for i in range(start, stop):
            h = self.down[i](h, emb, context)
            skips.append(h)
        return skips

    def ascend(
        self,
        h: Feature,
        skips: Sequence[Tensor],
        emb: Tensor,
        context: Tensor | None,
        stop: int = 0,
        taps: Sequence[int] = (),
        x: Tensor | None = None,
    ) -> tuple[Tensor, dict[int, Feature]]:
        """Runs up[i] from the innermost of `skips` out to `stop` -> what leaves up[stop], {tap: entering feature}.

        h: what enters the innermost; skips: those of the branches stop, stop + 1, …, as `descend` returns them. What
        leaves up[stop] is what enters up[stop - 1], or the head. x: what the outermost skip was made from, where it is
        at hand.
        """
        tapped: dict[int, Feature] = {}
        for i in reversed(range(stop, stop + len(skips))):
            if i in taps:
                h = tapped[i] = self.kept(i, h)
            h = self.consume(i, h, skips[i - stop], emb, context, x)
        return h, tapped

    # What networks do otherwise that keep something else of a feature than the feature itself.

    def kept(self, i: int, h: Feature) -> Feature:
        """What is kept of the feature that enters up[i], and goes on."""
        return h

    def consume(
        self, i: int, h: Feature, skip: Tensor, emb: Tensor, context: Tensor | None, x: Tensor | None
    ) -> Tensor:
        """Runs up[i]. x: see `ascend`."""
        return self.up[i](h, skip, emb, context)

    def head(self, h: Tensor) -> Tensor:
        """What leaves up[0] -> eps (B, out_channels, H, W)."""
        return self.conv_out(F.silu(self.norm_out(h)))

    def check_size(self, x: Tensor) -> None:
        """Raises InputError for an x (B, C, H, W) whose sides cannot be halved as often as the network does."""
        f, (height, width) = 2 ** (self.config.num_levels - 1), x.shape[-2:]
        if height % f or width % f:
            raise InputError(f"x of {height}x{width} does not fit this network; both sides must be multiples of {f}")

    def _check_pass(self, x: Tensor, branch: int | None, feature: Feature | None, taps: Sequence[int]) -> None:
        self.check_size(x)
        inner = self.num_branches - 1
        if branch is not None and not 0 <= branch <= inner:
            raise InputError(f"branch {branch} does not exist; this network has branches 0 (outermost) to {inner}")
        if (branch is None) != (feature is None):
            raise InputError("a partial pass takes both `branch` and `feature`, a full pass neither")
        reach = inner if branch is None else branch
        for tap in taps:
            if not 0 <= tap <= reach:
                raise InputError(f"branch {tap} cannot be tapped in this pass; it runs branches 0 to {reach}")

    def _check_cond(self, cond: Tensor | None) -> None:
        classes, width = self.config.num_classes, self.config.context_dim
        if classes is not None and (cond is None or cond.ndim != 1):
            raise InputError(f"this network needs class labels (B,) in 0..{classes - 1} as cond")
        if width is not None and (cond is None or cond.ndim != 3 or cond.shape[2] != width):
            raise InputError(f"this network needs a cross-attention context (B, L, {width}) as cond")
        if classes is None and width is None and cond is not None:
            raise InputError("this network is unconditional and takes no cond")


def _down_stage(config: UNetConfig, index: int) -> nn.Module:
    level, block, skip, _ = config.branch(index)
    if index == 0:
        return Entry(config.in_channels, skip)
    if block == 0:
        return Stage(resample=resample(config, skip, "down"))
    below = config.branch(index - 1).skip_channels
    attn = attention(config, skip) if level in config.attention_levels else None
    return Stage(ResBlock(config, below, skip), attn)


def _up_stage(config: UNetConfig, index: int) -> nn.Module:
    level, block, skip, entering = config.branch(index)
    width = config.width(level)
    attn = attention(config, width) if level in config.attention_levels else None
    leaves_level = block == 0 and level > 0
    up = resample(config, width, "up") if leaves_level else None
    return Consumer(ResBlock(config, entering + skip, width), attn, up)
