"""Images as numbers: bit depth, shift, dequantisation, and the constant between nats and bits/dim."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reduce_bits(images: Tensor, num_bits: int) -> Tensor:
    """Reduce uint8 images to their ``2^num_bits`` levels, as integers 0 .. 2^num_bits - 1, by dropping the low bits.

    Raises:
        ValueError: for images that are not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, not {images.dtype}")
    return images >> (8 - num_bits)


def dequantize(images: Tensor, noise: Tensor, num_bits: int) -> Tensor:
    """Place every level ``k`` at ``(k + noise) / 2^num_bits - 1/2``, within [-1/2, 1/2].

    Args:
        images: uint8 ``[N, C, H, W]``.
        noise: In (0, 1), of the same shape; its dtype is that of the result.
        num_bits: 1 to 8.

    Source: Theis, van den Oord & Bethge 2016 (arXiv 1511.01844), section 3.1.
    """
    levels = reduce_bits(images, num_bits).to(noise.dtype)
    return (levels + noise) / 2**num_bits - 0.5


def quantize(x: Tensor, num_bits: int) -> Tensor:
    """Return the uint8 images of the levels that ``x`` lies in; what is outside the data range goes to its nearest end.

    Level ``k`` becomes ``round(255 k / (2^num_bits - 1))``: black is 0 and white is 255 at every bit depth, and
    ``reduce_bits`` gives ``k`` back.
    """
    top = 2**num_bits - 1
    levels = torch.floor((x + 0.5) * 2**num_bits).clamp(0, top)
    return torch.round(levels * (255 / top)).to(torch.uint8)


def log_volume(num_dims: int, num_bits: int) -> float:
    """Return the log-determinant of ``dequantize``, in nats: the log of the volume of one cell of the data grid."""
    return -num_dims * num_bits * math.log(2)


def bits_per_dim(log_prob: Tensor, num_dims: int) -> Tensor:
    """Convert log-probabilities in nats to bits a dimension."""
    return log_prob * (-1 / (num_dims * math.log(2)))
