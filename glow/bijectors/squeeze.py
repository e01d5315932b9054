"""Squeeze: 2x2 blocks of pixels become channels (space to depth)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from glow.bijectors.base import Bijector


class Squeeze(Bijector):
    """Turn every 2x2 block into channels: ``[N, C, H, W] -> [N, 4C, H/2, W/2]``, logdet 0.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP, arXiv 1605.08803), section 3.6.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        return F.pixel_unshuffle(x, 2), x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        return F.pixel_shuffle(z, 2), z.new_zeros(len(z))
