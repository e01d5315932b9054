"""Radial flow: stretch or squeeze space around a point."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.base import Bijector


class Radial(Bijector):
    """``z = x + beta (x - x0) / (alpha + r)`` with ``r = |x - x0|``; x is ``[N, D]``.

    logdet ``(D - 1) log(1 + beta / (alpha + r)) + log(1 + alpha beta / (alpha + r)^2)``. The map starts as identity.

    The parameters are a and b, with ``alpha = softplus(a)`` and ``beta = softplus(b) - alpha``. So alpha > 0 and beta >
    -alpha always hold, and the map is invertible: z lies in the same direction from x0 as x, at a distance that grows
    with r.

    Inverse: ``|z - x0| = r (1 + beta / (alpha + r))`` is the quadratic ``r^2 + (alpha + beta - |z - x0|) r = alpha |z -
    x0|``, which has one root r >= 0. Cost: a few operations a number, in either direction.

    Source: Rezende & Mohamed 2015 (arXiv 1505.05770), equation 14 and appendix A.2.
    """

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        self.center = nn.Parameter(torch.randn(num_dims))
        self.raw_alpha = nn.Parameter(torch.zeros(()))
        self.raw_sum = nn.Parameter(torch.zeros(()))  # of alpha + beta

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        alpha, total = F.softplus(self.raw_alpha), F.softplus(self.raw_sum)
        offset = x - self.center
        r = torch.linalg.vector_norm(offset, dim=1)
        stretch = _stretch(r, alpha, total)
        return self.center + stretch[:, None] * offset, self._logdet(r, stretch, alpha, total)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        alpha, total = F.softplus(self.raw_alpha), F.softplus(self.raw_sum)
        offset = z - self.center
        distance = torch.linalg.vector_norm(offset, dim=1)
        linear = total - distance
        # There are two formulas for the root. Take the one without a subtraction, which would lose digits.
        larger = (linear.abs() + (linear.square() + 4 * alpha * distance).sqrt()) / 2
        r = torch.where(linear > 0, alpha * distance / larger, larger)
        stretch = _stretch(r, alpha, total)
        return self.center + offset / stretch[:, None], -self._logdet(r, stretch, alpha, total)

    def _logdet(self, r: Tensor, stretch: Tensor, alpha: Tensor, total: Tensor) -> Tensor:
        # The derivative of |z - x0| by r, as a sum of positive terms.
        along = (r.square() + alpha * (2 * r + total)) / (alpha + r).square()
        return (len(self.center) - 1) * stretch.log() + along.log()


def _stretch(r: Tensor, alpha: Tensor, total: Tensor) -> Tensor:
    """Return ``1 + beta / (alpha + r)``, where ``total`` is alpha + beta."""
    return (r + total) / (r + alpha)
