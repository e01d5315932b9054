"""The convolutions of a coupling network as products of matrices.

The input and the output of the network are narrow, its hidden layers are wide. So the 3x3 windows of the input are
taken before the first product, and the windows of the output are added up after the last. What lies between is three
dense layers, applied to every pixel.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.networks.layers import ContextConv2d, NormalizedConv2d, ZeroConv2d
from glow.networks.pixelwise import three_layers
from glow.networks.windows import overlaps, windows


class Matrices(NamedTuple):
    """The weights of three convolutions, with ActNorms and scales folded in; all of one dtype."""

    first: tuple[Tensor, Tensor]
    """``[hidden, in]`` and ``[hidden]``; ``in`` is 9 C, and 9 more for an indicator, and K more for a context, and more
    zeros for GPUs."""
    second: tuple[Tensor, Tensor]
    """``[hidden, hidden]`` and ``[hidden]``."""
    last: Tensor
    """``[9 out, hidden]``: what a pixel adds to each of the 9 pixels around it. More rows of zeros for GPUs."""
    last_bias: Tensor
    """``[out]``."""
    border: Tensor | None
    """``[out, 9]``: what the border of the last convolution adds to the pixels beside it. None: nothing."""
    sees_border: bool
    """Whether the first convolution has an indicator of the border."""


def matrices_of(
    conv1: NormalizedConv2d,
    conv2: NormalizedConv2d,
    conv3: ZeroConv2d,
    context: ContextConv2d | None,
    dtype: torch.dtype,
) -> Matrices:
    """Return the weights of a ``CouplingNet`` as matrices."""
    (weight1, bias1), (weight2, bias2), (weight3, bias3) = (
        [part.to(dtype) for part in layer.folded()] for layer in (conv1, conv2, conv3)
    )
    sees_border = conv1.padding == "indicator"
    num_channels = weight1.shape[1] - sees_border
    # The columns are in the order of the rows that _rows makes.
    first = [
        weight1[:, :num_channels].permute(0, 2, 3, 1).flatten(1),  # [hidden, 9 C]
        weight1[:, num_channels:].flatten(1),  # [hidden, 9], or [hidden, 0] without an indicator
    ]
    if context is not None:
        first.append(context.weight.to(dtype).flatten(1))  # [hidden, K]
    # A pixel adds to its neighbours what a convolution takes from them: the kernel, turned by 180 degrees.
    last = weight3[:, : len(weight2)].flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)  # [9 out, hidden]
    border = {"zeros": None, "ones": weight3.sum(1).flatten(1), "indicator": weight3[:, -1].flatten(1)}  # [out, 9]
    inputs = torch.cat(first, 1)
    multiple = _multiple(inputs)
    inputs = F.pad(inputs, (0, -inputs.shape[1] % multiple))
    last = F.pad(last, (0, 0, 0, -len(last) % multiple))
    return Matrices(
        first=(inputs, bias1),
        second=(weight2.flatten(1), bias2),
        last=last,
        last_bias=bias3,
        border=border[conv3.padding],
        sees_border=sees_border,
    )


def three_convolutions(matrices: Matrices, x: Tensor, context: Tensor | None) -> Tensor:
    """Return what ``CouplingNet`` computes layer by layer, ``[N, out, H, W]``, in the dtype of the matrices.

    Args:
        matrices: Those of ``matrices_of``.
        x: ``[N, C, H, W]``.
        context: ``[N, K, 1, 1]`` or ``[N, K, H, W]``, or None.
    """
    rows = _rows(x.to(matrices.last.dtype), context, matrices.sees_border, matrices.first[0].shape[1])  # [N, H, W, in]
    products = three_layers(rows.flatten(0, 2), matrices.first, matrices.second, matrices.last)
    products = products.unflatten(0, rows.shape[:3])  # [N, H, W, 9 out]
    output = overlaps(products, len(matrices.last_bias)) + matrices.last_bias  # [N, H, W, out]
    if matrices.border is not None:
        output = output + F.linear(_border(output.permute(0, 3, 1, 2)), matrices.border)
    return output.permute(0, 3, 1, 2)  # [N, out, H, W]


def _multiple(like: Tensor) -> int:
    """Return what divides the sides of matrices: the fast kernels of GPUs take rows of a multiple of 16 bytes alone."""
    return 16 // like.itemsize if like.is_cuda else 1


def _rows(x: Tensor, context: Tensor | None, sees_border: bool, width: int) -> Tensor:
    """Return what the first layer sees of every pixel, ``[N, H, W, width]``; zeros at the end."""
    pixels = [len(x), *x.shape[2:]]
    others = []
    if sees_border:
        others.append(_border(x).expand(*pixels, -1))  # [N, H, W, 9]
    if context is not None:
        others.append(context.to(x.dtype).permute(0, 2, 3, 1).expand(*pixels, -1))  # [N, H, W, K]
    if not others:
        return windows(x.permute(0, 2, 3, 1), width)
    rows = torch.cat([windows(x.permute(0, 2, 3, 1)), *others], 3)
    return rows if rows.shape[3] == width else F.pad(rows, (0, width - rows.shape[3]))


def _border(like: Tensor) -> Tensor:
    """Return the 3x3 windows of an image that is 0 inside ``like [N, C, H, W]`` and 1 outside: ``[1, H, W, 9]``."""
    return 1 - windows(like.new_ones(1, *like.shape[2:], 1))
