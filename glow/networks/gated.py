"""The coupling network of Flow++: gated convolutions and self-attention in residual blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.networks.base import Network
from glow.networks.layers import ContextConv2d, ZeroConv2d


class GatedNet(Network):
    """A 3x3 convolution, residual blocks, and a zero-initialised 3x3 convolution.

    A block is a gated convolution and gated self-attention.

    Args:
        in_channels: Channels of the input ``[N, in_channels, H, W]``.
        hidden_channels: Channels of all blocks; divisible by 4, the number of attention heads.
        out_channels: Channels of the output ``[N, out_channels, H, W]``.
        size: H and W; the attention has learned positions.
        num_blocks: Number of blocks.
        context_channels: Channels of the context, which a 1x1 convolution adds before the blocks. 0: none.

    Source: Ho, Chen, Srinivas, Duan & Abbeel 2019 (Flow++, arXiv 1902.00275), section 3.3.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        size: tuple[int, int],
        *,
        num_blocks: int = 2,
        context_channels: int = 0,
    ) -> None:
        super().__init__()
        self.first = nn.Conv2d(in_channels, hidden_channels, 3, padding=1)
        self.context = ContextConv2d(context_channels, hidden_channels) if context_channels else None
        layers: list[nn.Module] = []
        for _ in range(num_blocks):
            layers += [GatedConv(hidden_channels), GatedAttention(hidden_channels, size)]
        self.layers = nn.Sequential(*layers)
        self.last = ZeroConv2d(hidden_channels, out_channels)

    def compute(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        hidden = self.first(x)
        if self.context is not None:
            hidden = hidden + self.context(context)
        return self.last(self.layers(hidden))


class GatedConv(nn.Module):
    """``LayerNorm(x + a * sigmoid(b))``; a 3x3 and a 1x1 convolution of concatenated ELUs return ``(a, b)``."""

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2 * num_channels, num_channels, 3, padding=1)
        self.gate = nn.Conv2d(2 * num_channels, 2 * num_channels, 1)
        self.norm = nn.LayerNorm(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        hidden = self.gate(_concat_elu(self.conv(_concat_elu(x))))
        return _normalize(self.norm, x + F.glu(hidden, dim=1))


class GatedAttention(nn.Module):
    """``LayerNorm(x + a * sigmoid(b))``; self-attention of 4 heads over all pixels returns ``(a, b)``."""

    def __init__(self, num_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.position = nn.Parameter(0.01 * torch.randn(num_channels, *size))
        self.project = nn.Conv2d(num_channels, 3 * num_channels, 1, bias=False)
        self.gate = nn.Conv2d(num_channels, 2 * num_channels, 1)
        self.norm = nn.LayerNorm(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        heads = self.project(x + self.position).flatten(2).unflatten(1, (3, 4, -1))  # [N, 3, heads, C / heads, H W]
        query, key, value = heads.transpose(-1, -2).unbind(1)  # [N, heads, H W, C / heads] each
        attended = F.scaled_dot_product_attention(query, key, value)  # [N, heads, H W, C / heads]
        hidden = self.gate(attended.transpose(-1, -2).reshape(x.shape))  # [N, 2 C, H, W]
        return _normalize(self.norm, x + F.glu(hidden, dim=1))


def _concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def _normalize(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Normalise over the channels of every pixel."""
    return norm(x.movedim(1, -1)).movedim(-1, 1)
