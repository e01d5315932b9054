"""The coupling network of Glow: three convolutions."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from glow.networks.base import Network
from glow.networks.dense import matrices_of, three_convolutions
from glow.networks.layers import ContextConv2d, NormalizedConv2d, ZeroConv2d


class CouplingNet(Network):
    """3x3, 1x1 and 3x3 convolutions, the first two with ActNorm and ReLU, the last zero-initialised.

    ``compute_layer_by_layer`` says what the network is. ``compute`` returns the same, up to rounding, by the faster
    functions of ``dense``.

    Args:
        in_channels: Channels of the input ``[N, in_channels, H, W]``.
        hidden_channels: Channels of both hidden layers.
        out_channels: Channels of the output ``[N, out_channels, H, W]``.
        context_channels: Channels of the context, which a 1x1 convolution adds to the first hidden layer. 0: none.
        actnorm: Whether the hidden layers are normalised.
        padding: The border that the 3x3 kernels see: ``zeros``, or one of ``pad``. With ``ones`` the first convolution
            sees zeros.

    Source: Kingma & Dhariwal 2018, section 3.3 and appendix B.
    """

    def __init__(
        self,
        in_channels: int,
        hidden_channels: int,
        out_channels: int,
        *,
        context_channels: int = 0,
        actnorm: bool = True,
        padding: str = "zeros",
    ) -> None:
        super().__init__()
        first = "zeros" if padding == "ones" else padding
        self.conv1 = NormalizedConv2d(in_channels, hidden_channels, 3, actnorm=actnorm, padding=first)
        self.conv2 = NormalizedConv2d(hidden_channels, hidden_channels, 1, actnorm=actnorm)
        self.conv3 = ZeroConv2d(hidden_channels, out_channels, padding)
        self.context = ContextConv2d(context_channels, hidden_channels) if context_channels else None

    def compute_layer_by_layer(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return the output, one convolution after the other."""
        hidden = self.conv1(x)
        if self.context is not None:
            hidden = hidden + self.context(context)
        hidden = self.conv2(F.relu(hidden))
        return self.conv3(F.relu(hidden))

    def compute(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return the output: layer by layer while an ActNorm waits for data, then by products of matrices.

        An exported program takes the layers too: it may run where our operators are missing.
        """
        if torch.compiler.is_exporting() or not (self.conv1.is_initialized and self.conv2.is_initialized):
            return self.compute_layer_by_layer(x, context)
        dtype = self.compute_dtype or x.dtype
        layers = (self.conv1, self.conv2, self.conv3, self.context)
        matrices = self.reuse(partial(matrices_of, *layers, dtype), dtype)
        return three_convolutions(matrices, x, None if self.context is None else self.context.check(context))
