"""The 3x3 windows around all pixels, which turn a convolution into a matrix product; and their adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.networks.operators import operator


def windows(x: Tensor, width: int | None = None) -> Tensor:
    """Return the 3x3 windows around all pixels of ``[N, H, W, C]``, as ``[N, H, W, 9 C]``.

    A window lists its rows from top to bottom, the pixels of a row from left to right, the channels of a pixel. Pixels
    outside the image are 0. With a ``width`` above 9 C, zeros follow: ``[N, H, W, width]``.
    """
    return _Windows.apply(x, 9 * x.shape[3] if width is None else width)


def overlaps(x: Tensor, channels: int | None = None) -> Tensor:
    """Add up overlapping windows ``[N, H, W, 9 C]`` to ``[N, H, W, C]``: the adjoint of ``windows``.

    Where ``channels`` says C, more than 9 C numbers may be given; the last ones are ignored.
    """
    return _Overlaps.apply(x, x.shape[3] // 9 if channels is None else channels)


@operator("windows(Tensor x, int width) -> Tensor", lambda x, width: x.new_empty(*x.shape[:3], width))
def _take(x: Tensor, width: int) -> Tensor:
    height, columns, channels = x.shape[1:]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1)).contiguous()  # [N, H + 2, W + 2, C]
    image, row, pixel, _ = padded.stride()
    # The three pixels in a row of a window lie beside each other in memory.
    view = padded.as_strided((len(x), height, columns, 3, 3 * channels), (image, row, pixel, row, 1))
    if width == 9 * channels:
        return view.contiguous().flatten(3)  # [N, H, W, 9 C]
    taken = x.new_zeros(len(x), height, columns, width)
    taken[..., : 9 * channels].unflatten(3, (3, -1)).copy_(view)
    return taken


@operator("overlaps(Tensor x, int channels) -> Tensor", lambda x, channels: x.new_empty(*x.shape[:3], channels))
def _add_up(x: Tensor, channels: int) -> Tensor:
    # First the rows of the windows, then the pixels of the rows: fewer passes than one for each of the nine pixels.
    above, middle, below = x[..., : 9 * channels].unflatten(3, (3, -1)).unbind(3)  # [N, H, W, 3 C] each
    total = middle.clone(memory_format=torch.contiguous_format)
    total[:, :-1].add_(above[:, 1:])
    total[:, 1:].add_(below[:, :-1])
    left, middle, right = total.unflatten(3, (3, -1)).unbind(3)  # [N, H, W, C] each
    total = middle.clone(memory_format=torch.contiguous_format)
    total[:, :, :-1].add_(left[:, :, 1:])
    total[:, :, 1:].add_(right[:, :, :-1])
    return total


class _Windows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, width: int) -> Tensor:
        ctx.channels = x.shape[3]
        return _take(x, width)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return overlaps(gradients[0], ctx.channels), None


class _Overlaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, channels: int) -> Tensor:
        ctx.width = x.shape[3]
        return _add_up(x, channels)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return windows(gradients[0], ctx.width), None
