"""The coupling network of Flow++: gated convolutions and self-attention in residual blocks."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.networks.base import Network
from glow.networks.layers import ContextConv2d, ZeroConv2d


class GatedNet(Network):
    """A 3x3 convolution, blocks of a gated convolution and gated attention, and a zero-initialised 3x3 convolution.

    Args:
        in_channels: Of the input.
        hidden_channels: Of all blocks; divisible by 4, the number of attention heads.
        out_channels: Of the output.
        size: Height and width; attention knows where a pixel lies.
        num_blocks: Residual blocks.
        context_channels: Of the context, which is added before the blocks by a 1x1 convolution. 0: none.

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
        """Apply the convolutions and blocks."""
        hidden = self.first(x)
        if self.context is not None:
            hidden = hidden + self.context(context)
        return self.last(self.layers(hidden))


class GatedConv(nn.Module):
    """``LayerNorm(x + a * sigmoid(b))`` with ``(a, b)`` by a 3x3 and a 1x1 convolution of concatenated ELUs."""

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
    """``LayerNorm(x + a * sigmoid(b))`` with ``(a, b)`` by self-attention of 4 heads over all pixels."""

    def __init__(self, num_channels: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.position = nn.Parameter(0.01 * torch.randn(num_channels, *size))
        self.project = nn.Conv2d(num_channels, 3 * num_channels, 1, bias=False)
        self.gate = nn.Conv2d(num_channels, 2 * num_channels, 1)
        self.norm = nn.LayerNorm(num_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, C, H, W]`` to the same shape."""
        heads = self.project(x + self.position).flatten(2).unflatten(1, (3, 4, -1))
        query, key, value = heads.transpose(-1, -2).unbind(1)  # each [N, heads, H W, C / heads]
        attended = F.scaled_dot_product_attention(query, key, value)
        hidden = self.gate(attended.transpose(-1, -2).reshape(x.shape))
        return _normalize(self.norm, x + F.glu(hidden, dim=1))


def _concat_elu(x: Tensor) -> Tensor:
    return F.elu(torch.cat([x, -x], dim=1))


def _normalize(norm: nn.LayerNorm, x: Tensor) -> Tensor:
    """Normalise over the channels of every pixel."""
    return norm(x.movedim(1, -1)).movedim(-1, 1)
