"""Images as numbers: bit depth, dequantisation, and the constant between nats and bits/dim."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def reduce_bits(images: Tensor, num_bits: int) -> Tensor:
    """Return the grey levels 0 .. 2^num_bits - 1 of uint8 images, by dropping the low bits.

    Raises:
        ValueError: when the images are not uint8.
    """
    if images.dtype != torch.uint8:
        raise ValueError(f"images must be uint8, not {images.dtype}")
    return images >> (8 - num_bits)


def dequantize(images: Tensor, noise: Tensor, num_bits: int) -> Tensor:
    """Return ``(k + noise) / 2^num_bits - 1/2`` for every grey level k: numbers in [-1/2, 1/2].

    Args:
        images: uint8 ``[N, C, H, W]``.
        noise: In (0, 1), of the same shape. The result has its dtype.
        num_bits: Bit depth, 1 to 8.

    Raises:
        ValueError: when the images are not uint8.

    Source: Theis, van den Oord & Bethge 2016 (arXiv 1511.01844), section 3.1.
    """
    levels = reduce_bits(images, num_bits).to(noise.dtype)
    return (levels + noise) / 2**num_bits - 0.5


def quantize(x: Tensor, num_bits: int) -> Tensor:
    """Return uint8 images of points ``x`` in data space; numbers outside of [-1/2, 1/2] are clamped.

    Level k becomes ``round(255 k / (2^num_bits - 1))``. So black is 0 and white is 255 at every bit depth, and
    ``reduce_bits`` returns k.
    """
    top = 2**num_bits - 1
    levels = torch.floor((x + 0.5) * 2**num_bits).clamp(0, top)
    return torch.round(levels * (255 / top)).to(torch.uint8)


def log_volume(num_dims: int, num_bits: int) -> float:
    """Return the log of the volume of one cell of the data grid, in nats: the log-determinant of ``dequantize``."""
    return -num_dims * num_bits * math.log(2)


def bits_per_dim(log_prob: Tensor, num_dims: int) -> Tensor:
    """Convert log-probabilities ``[N]`` in nats to bits per dimension ``[N]``."""
    return log_prob * (-1 / (num_dims * math.log(2)))
