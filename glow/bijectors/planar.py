"""Planar flow: stretch or squeeze space across a plane."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.base import Bijector
from glow.bijectors.root import solve_increasing

SOFTPLUS_OF_NOTHING = math.log(math.e - 1)  # softplus of this is 1


class Planar(Bijector):
    """``z = x + u_hat tanh(y)`` with ``y = w^T x + b``; x is ``[N, D]``.

    logdet ``log(1 + w^T u_hat (1 - tanh(y)^2))``. The map starts as the identity.

    It is invertible when ``w^T u_hat > -1``. That holds for ``u_hat = u + (m(w^T u) - w^T u) w / |w|^2`` with ``m(t) =
    softplus(t + log(e - 1)) - 1``, because then ``w^T u_hat = m(w^T u)``. The paper's m lacks the constant log(e - 1).
    With it m(0) = 0: u_hat is 0 where u is 0, and it stays bounded when w comes near 0.

    Inverse: ``w^T z + b = y + w^T u_hat tanh(y)`` is solved for y by Newton steps and bisections. The solution lies
    within ``|w^T u_hat|`` of the left side. Cost: two products with a vector; the inverse also needs one tanh an
    iteration, for at most 100 iterations.

    Source: Rezende & Mohamed 2015 (arXiv 1505.05770), equations 10 to 13 and appendix A.1.
    """

    def __init__(self, num_dims: int) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.randn(num_dims))
        self.u = nn.Parameter(torch.zeros(num_dims))
        # The plane goes through a random point. Otherwise all planes of a flow would meet at 0.
        self.b = nn.Parameter(-(self.w.detach() @ torch.randn(num_dims)))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        u, slope = self._constrained()
        y = x @ self.w + self.b
        return x + u * y.tanh()[:, None], _log_derivative(y, slope)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        u, slope = self._constrained()
        target = z @ self.w + self.b
        reach = (slope - 1).detach().abs()
        y = solve_increasing(
            lambda y: (y + (slope - 1) * y.tanh(), _log_derivative(y, slope)), target, target - reach, target + reach
        )
        return z - u * y.tanh()[:, None], -_log_derivative(y, slope)

    def _constrained(self) -> tuple[Tensor, Tensor]:
        """Return u_hat and ``1 + w^T u_hat > 0``."""
        product = self.w @ self.u
        slope = F.softplus(product + SOFTPLUS_OF_NOTHING)
        squared_norm = self.w.square().sum().clamp(min=torch.finfo(self.w.dtype).tiny)
        return self.u + (slope - 1 - product) * self.w / squared_norm, slope


def _log_derivative(y: Tensor, slope: Tensor) -> Tensor:
    """Return ``log(1 + w^T u_hat (1 - tanh(y)^2))``, computed as the log of a sum of positive terms."""
    square = y.tanh().square()
    return (square + slope * (1 - square)).log()
