"""The 3x3 windows around all pixels, which turn a convolution into a matrix product; and their adjoint."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.networks.operators import operator


def windows(x: Tensor) -> Tensor:
    """Return the 3x3 windows around all pixels of ``[N, H, W, C]``, as ``[N, H, W, 9 C]``.

    A window lists its rows from top to bottom, the pixels of a row from left to right, the channels of a pixel. Pixels
    outside the image are 0.
    """
    return _Windows.apply(x)


def overlaps(x: Tensor) -> Tensor:
    """Add up overlapping windows ``[N, H, W, 9 C]`` to ``[N, H, W, C]``: the adjoint of ``windows``."""
    return _Overlaps.apply(x)


@operator("windows(Tensor x) -> Tensor", lambda x: x.new_empty(*x.shape[:3], 9 * x.shape[3]))
def _take(x: Tensor) -> Tensor:
    height, width, channels = x.shape[1:]
    padded = F.pad(x, (0, 0, 1, 1, 1, 1)).contiguous()  # [N, H + 2, W + 2, C]
    image, row, pixel, _ = padded.stride()
    # The three pixels in a row of a window lie beside each other in memory.
    view = padded.as_strided((len(x), height, width, 3, 3 * channels), (image, row, pixel, row, 1))
    return view.contiguous().flatten(3)  # [N, H, W, 9 C]


@operator("overlaps(Tensor x) -> Tensor", lambda x: x.new_empty(*x.shape[:3], x.shape[3] // 9))
def _add_up(x: Tensor) -> Tensor:
    # First the rows of the windows, then the pixels of the rows: fewer passes than one for each of the nine pixels.
    above, middle, below = x.unflatten(3, (3, -1)).unbind(3)  # [N, H, W, 3 C] each
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
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _take(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return overlaps(*gradients)


class _Overlaps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return _add_up(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return windows(*gradients)
