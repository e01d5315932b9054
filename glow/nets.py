"""Coupling networks, and the convolutions that they are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.actnorm import ActNorm


class NormalizedConv2d(nn.Module):
    """A convolution without bias, then ActNorm; weights are drawn from N(0, 0.05^2).

    The scale and bias of the ActNorm are folded into the convolution, which spares a pass over its output.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(0.05 * torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.actnorm = ActNorm(out_channels)
        self.padding = kernel_size // 2

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        if self.actnorm.pending_name is not None or not self.actnorm.is_initialized:
            return self.actnorm.normalize(F.conv2d(x, self.weight, padding=self.padding))
        scale = self.actnorm.log_scale.exp()
        weight = self.weight * scale[:, None, None, None]
        return F.conv2d(x, weight, self.actnorm.bias * scale, padding=self.padding)


class ZeroConv2d(nn.Module):
    """A 3x3 convolution times ``exp(3 log_scale)``, a learned scale a channel; its output is 0 at first.

    Source: Kingma & Dhariwal 2018, section 3.3 and the authors' code.
    """

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.log_scale = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        scale = (3 * self.log_scale).exp()
        return F.conv2d(x, self.weight * scale[:, None, None, None], self.bias * scale, padding=1)


class CouplingNet(nn.Module):
    """3x3 - 1x1 - 3x3 convolutions with ActNorm and ReLU; the last one is zero-initialised.

    ``compute_dtype`` is the precision that the convolutions run in under autocast (None: that of the input); the
    result always has the dtype of the input.

    Source: Kingma & Dhariwal 2018, section 3.3 and appendix B.
    """

    def __init__(self, in_channels: int, hidden_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = NormalizedConv2d(in_channels, hidden_channels, 3)
        self.conv2 = NormalizedConv2d(hidden_channels, hidden_channels, 1)
        self.conv3 = ZeroConv2d(hidden_channels, out_channels)
        self.compute_dtype: torch.dtype | None = None

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        dtype = self.compute_dtype
        with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            hidden = F.relu(self.conv1(x))
            hidden = F.relu(self.conv2(hidden))
            return self.conv3(hidden).to(x.dtype)
