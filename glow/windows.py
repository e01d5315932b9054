"""The 3x3 windows around the pixels of an image, which make a convolution a matrix product, and their adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


ALIGNMENT = 16  # columns: products with other numbers of them are up to a third slower


def num_columns(num_channels: int) -> int:
    """Return how many columns windows of so many channels have."""
    return -(-9 * num_channels // ALIGNMENT) * ALIGNMENT


def windows(x: Tensor) -> Tensor:
    """Return the 3x3 windows around all pixels of ``[N, H, W, C]``, with a border of zeros: ``[N, H, W, columns]``.

    The 9 C numbers of a window are row by row, pixel by pixel, channel by channel; the columns after them are 0.
    """
    return _Windows.apply(x)


def overlaps(x: Tensor, num_channels: int) -> Tensor:
    """Add up windows ``[N, H, W, columns]`` where they overlap: ``[N, H, W, C]``, the adjoint of ``windows``."""
    return _Overlaps.apply(x, num_channels)


def _take(x: Tensor) -> Tensor:
    height, width, channels = x.shape[1:]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1)).contiguous()
    image, row, pixel, _ = padded.stride()
    # A row of a window is contiguous.
    taken = padded.as_strided((len(x), height, width, 3, 3 * channels), (image, row, pixel, row, 1))
    result = x.new_empty(*x.shape[:3], num_columns(channels))
    result[..., : 9 * channels].unflatten(3, (3, -1)).copy_(taken)
    result[..., 9 * channels :] = 0
    return result


def _add_up(x: Tensor, num_channels: int) -> Tensor:
    # Rows of windows first, then the pixels in them: fewer passes than one for each of the nine.
    rows = x[..., : 9 * num_channels].unflatten(3, (3, -1))
    total = rows[:, :, :, 1].clone(memory_format=torch.contiguous_format)
    total[:, :-1] += rows[:, 1:, :, 0]
    total[:, 1:] += rows[:, :-1, :, 2]
    columns = total.unflatten(3, (3, -1))
    total = columns[:, :, :, 1].clone(memory_format=torch.contiguous_format)
    total[:, :, :-1] += columns[:, :, 1:, 0]
    total[:, :, 1:] += columns[:, :, :-1, 2]
    return total


class _Windows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.num_channels = x.shape[3]
        return _take(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return overlaps(*gradients, ctx.num_channels)


class _Overlaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, num_channels: int) -> Tensor:
        return _add_up(x, num_channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return windows(*gradients), None
