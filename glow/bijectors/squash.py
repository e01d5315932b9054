"""Squashing: map all numbers into the interval (-1, 1), for bounded actions."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.bijectors.base import Bijector, sum_per_example


class Squash(Bijector):
    """``z = artanh x``, so that ``x = tanh z``; x is ``[N, ...]`` with all numbers in (-1, 1).

    logdet ``-sum log(1 - x^2)``. The inverse has logdet ``sum 2 (log 2 - z - softplus(-2 z))``, which stays exact where
    tanh z is rounded to 1.

    Source: Haarnoja, Zhou, Abbeel & Levine 2018 (arXiv 1801.01290), appendix C.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        return torch.atanh(x), sum_per_example(-torch.log1p(-x) - torch.log1p(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        # Rounding must not return 1 or -1.
        limit = 1 - torch.finfo(z.dtype).eps
        return torch.tanh(z).clamp(-limit, limit), sum_per_example(2 * (math.log(2) - z - F.softplus(-2 * z)))
