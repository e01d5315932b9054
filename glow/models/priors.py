"""Priors as bijectors: they subtract a learned mean and divide by a learned scale, so that latents are N(0, I)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from glow.bijectors.base import Bijector, sum_per_example
from glow.networks.layers import ContextConv2d, ZeroConv2d


class SplitPrior(Bijector):
    """``z_b = (x_b - mean(x_a)) * exp(-log_scale(x_a))``, ``z_a = x_a``, logdet ``-sum(log_scale)``.

    ``x`` is ``[N, 2c, H, W]``. The split factors out its second half, x_b. A zero-initialised 3x3 convolution of the
    first half returns mean and log_scale. If there is a context, a 1x1 convolution of it is added to both.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP), section 3.6; the authors' code of Kingma & Dhariwal 2018.
    """

    def __init__(self, num_channels: int, padding: str = "zeros", context_channels: int = 0) -> None:
        super().__init__()
        self.conv = ZeroConv2d(num_channels // 2, num_channels, padding)
        self.context = ContextConv2d(context_channels, num_channels) if context_channels else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        x_a, x_b = x.chunk(2, dim=1)
        mean, log_scale = self._mean_and_log_scale(x_a, context)
        return torch.cat([x_a, (x_b - mean) * (-log_scale).exp()], dim=1), -sum_per_example(log_scale)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        z_a, z_b = z.chunk(2, dim=1)
        mean, log_scale = self._mean_and_log_scale(z_a, context)
        return torch.cat([z_a, z_b * log_scale.exp() + mean], dim=1), sum_per_example(log_scale)

    def _mean_and_log_scale(self, x_a: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        output = self.conv(x_a)
        if self.context is not None:
            output = output + self.context(context)
        mean, log_scale = output.chunk(2, dim=1)
        return mean, log_scale


class _TopPrior(Bijector):
    """``z = (x - mean) * exp(-log_scale)``, logdet ``-sum(log_scale)``; a subclass computes mean and log_scale."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        mean, log_scale = self._mean_and_log_scale(x, context).chunk(2, dim=1)
        return (x - mean) * (-log_scale).exp(), -sum_per_example(log_scale)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        mean, log_scale = self._mean_and_log_scale(z, context).chunk(2, dim=1)
        return z * log_scale.exp() + mean, sum_per_example(log_scale)

    def _mean_and_log_scale(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return mean and log_scale, ``[N, 2C, H, W]``, for a state of the shape of ``x``."""
        raise NotImplementedError


class TopPrior(_TopPrior):
    """``z = (x - mean) * exp(-log_scale)`` with one learned mean and log_scale per channel, both 0 at first.

    ``x`` is ``[N, C, H, W]``, logdet ``-H W sum(log_scale)``. If there is a context, a 1x1 convolution of it is added
    to both.

    Source: Kingma & Dhariwal 2018, the authors' code (``learntop``, and ``ycond`` for classes).
    """

    def __init__(self, num_channels: int, context_channels: int = 0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(num_channels))
        self.log_scale = nn.Parameter(torch.zeros(num_channels))
        self.context = ContextConv2d(context_channels, 2 * num_channels) if context_channels else None

    def _mean_and_log_scale(self, x: Tensor, context: Tensor | None) -> Tensor:
        output = torch.cat([self.mean, self.log_scale])[:, None, None]
        if self.context is not None:
            output = output + self.context(context)
        return output.expand(len(x), -1, *x.shape[2:])


class BorderTopPrior(_TopPrior):
    """A top prior whose mean and log_scale are a 3x3 convolution of an image of zeros with a border of ``padding``.

    So they differ between pixels at the border and pixels inside. ``x`` is ``[N, C, H, W]``, logdet
    ``-sum(log_scale)``.

    Source: the authors' code of Kingma & Dhariwal 2018 (padding ``indicator``); rosinality's (padding ``ones``).
    """

    def __init__(self, num_channels: int, padding: str, context_channels: int = 0) -> None:
        super().__init__()
        self.conv = ZeroConv2d(num_channels, 2 * num_channels, padding)
        self.context = ContextConv2d(context_channels, 2 * num_channels) if context_channels else None

    def _mean_and_log_scale(self, x: Tensor, context: Tensor | None) -> Tensor:
        output = self.conv(torch.zeros_like(x))
        return output if self.context is None else output + self.context(context)


class PixelPrior(Bijector):
    """``z_b = (x_b - mean) * exp(-log_scale)`` with an own mean and log_scale for each number of x_b, ``z_a = x_a``.

    ``x`` is ``[N, C, H, W]``. x_b has its last channels; its shape is ``latent_shape``. The logdet is
    ``-sum(log_scale)``. If there is a context ``[N, K, 1, 1]``, a linear map of it is added to mean and log_scale. All
    are 0 at first.

    Source: the base densities of normflows' multiscale flows.
    """

    def __init__(self, latent_shape: tuple[int, int, int], context_channels: int = 0) -> None:
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(latent_shape))
        self.log_scale = nn.Parameter(torch.zeros(latent_shape))
        num_numbers = 2 * self.mean.numel()
        self.context = ContextConv2d(context_channels, num_numbers) if context_channels else None

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        x_a, x_b, mean, log_scale = self._parts(x, context)
        return torch.cat([x_a, (x_b - mean) * (-log_scale).exp()], dim=1), -sum_per_example(log_scale)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        z_a, z_b, mean, log_scale = self._parts(z, context)
        return torch.cat([z_a, z_b * log_scale.exp() + mean], dim=1), sum_per_example(log_scale)

    def _parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return x_a, x_b, and mean and log_scale ``[N, c, H, W]`` of x_b."""
        output = torch.stack([self.mean, self.log_scale]).expand(len(x), -1, -1, -1, -1)
        if self.context is not None:
            output = output + self.context(context).view(len(x), *output.shape[1:])
        a, b = x.split([x.shape[1] - len(self.mean), len(self.mean)], dim=1)
        return a, b, output[:, 0], output[:, 1]


class Identity(Bijector):
    """``z = x``, logdet 0: a prior that learns nothing."""

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``x``."""
        return x, x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return ``z``."""
        return z, z.new_zeros(len(z))
