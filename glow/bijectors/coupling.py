"""Coupling layers: one half of the channels is changed by a map that a network computes from the other half."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.base import Bijector, sum_per_example


class AffineCoupling(Bijector):
    """``z_b = (x_b + shift) * s`` with ``(shift, h) = net(x_a)`` and ``s = sigmoid(h + 2)``; ``z_a = x_a``.

    logdet is ``sum(log s)``. ``x`` is ``[N, 2c, ...]`` and ``net`` maps c channels to 2c.

    Source: Kingma & Dhariwal 2018, table 1, with the scale of the authors' code.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        x_a, x_b = x.chunk(2, dim=1)
        shift, log_scale = self._shift_and_log_scale(x_a, context)
        return torch.cat([x_a, (x_b + shift) * log_scale.exp()], dim=1), sum_per_example(log_scale)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        z_a, z_b = z.chunk(2, dim=1)
        shift, log_scale = self._shift_and_log_scale(z_a, context)
        return torch.cat([z_a, z_b * (-log_scale).exp() - shift], dim=1), -sum_per_example(log_scale)

    def _shift_and_log_scale(self, x_a: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        shift, h = self.net(x_a, context).chunk(2, dim=1)
        # logsigmoid, because the log of a sigmoid underflows.
        return shift, F.logsigmoid(h + 2)


class AdditiveCoupling(Bijector):
    """``z_b = x_b + net(x_a)``, ``z_a = x_a``, logdet 0.

    Source: Dinh, Krueger & Bengio 2015 (NICE, arXiv 1410.8516), section 3.2.
    """

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        x_a, x_b = x.chunk(2, dim=1)
        return torch.cat([x_a, x_b + self.net(x_a, context)], dim=1), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        z_a, z_b = z.chunk(2, dim=1)
        return torch.cat([z_a, z_b - self.net(z_a, context)], dim=1), z.new_zeros(len(z))
