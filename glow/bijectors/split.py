"""Priors as bijectors: whiten latents with a learned mean and scale, so that every latent is standard normal."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow.bijectors.base import Bijector, sum_per_example
from glow.nets import ZeroConv2d


class SplitPrior(Bijector):
    """``z_b = (x_b - mean(x_a)) * exp(-log_scale(x_a))``, ``z_a = x_a``, logdet ``-sum(log_scale)``.

    The second half of the channels is what a split factors out; mean and log-scale come from the first half by one
    zero-initialised 3x3 convolution. ``x`` is ``[N, 2c, H, W]``.

    Source: Kingma & Dhariwal 2018, section 3.6 and the authors' code.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.conv = ZeroConv2d(num_channels // 2, num_channels)

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        x_a, x_b = x.chunk(2, dim=1)
        mean, log_scale = self.conv(x_a).chunk(2, dim=1)
        return torch.cat([x_a, (x_b - mean) * (-log_scale).exp()], dim=1), -sum_per_example(log_scale)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        z_a, z_b = z.chunk(2, dim=1)
        mean, log_scale = self.conv(z_a).chunk(2, dim=1)
        return torch.cat([z_a, z_b * log_scale.exp() + mean], dim=1), sum_per_example(log_scale)


class TopPrior(Bijector):
    """``z = (x - mean) * exp(-log_scale)`` with one learned mean and log-scale a channel, both 0 at first.

    logdet is ``-H W sum(log_scale)``. ``x`` is ``[N, C, H, W]``.

    Source: Kingma & Dhariwal 2018, the authors' code (``learntop``).
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(num_channels))
        self.log_scale = nn.Parameter(torch.zeros(num_channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        mean, log_scale = self.mean[:, None, None], self.log_scale[:, None, None]
        return (x - mean) * (-log_scale).exp(), -self._sum_log_scale(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        mean, log_scale = self.mean[:, None, None], self.log_scale[:, None, None]
        return z * log_scale.exp() + mean, self._sum_log_scale(z)

    def _sum_log_scale(self, x: Tensor) -> Tensor:
        return (self.log_scale.sum() * (x.shape[2] * x.shape[3])).expand(len(x))
