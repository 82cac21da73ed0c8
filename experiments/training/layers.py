"""The layers whose gradients a CPU computes sooner another way. Their values are the network's own, to rounding."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F

from models import attention


class GroupNorm(nn.GroupNorm):
    """In float32, as autocast has it on a GPU: in bf16, channels last, the gradient takes several times as long."""

    def forward(self, x: Tensor) -> Tensor:
        """x (B, C, H, W) -> (B, C, H, W)."""
        return F.group_norm(x.to(self.weight.dtype), self.num_groups, self.weight, self.bias, self.eps)


class Attend(attention.Attend):
    """Two products: the gradient of the fused kernel takes longer than theirs."""

    def forward(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """q (B, heads, L, d), k and v (B, heads, M, d) -> (B, heads, L, d)."""
        weights = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(dim=-1)
        return weights @ v


TRAINED_ON_CPU: dict[type[nn.Module], type[nn.Module]] = {nn.GroupNorm: GroupNorm, attention.Attend: Attend}
