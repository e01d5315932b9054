"""The convolutions that coupling networks and priors are made of."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.actnorm import ActNorm


class NormalizedConv2d(nn.Module):
    """A convolution without bias, then ActNorm; the weights start as draws from N(0, 0.05^2).

    Once the ActNorm is initialised, its scale and bias are folded into the convolution. That saves a pass over the
    output.

    Args:
        in_channels: Channels of the input.
        out_channels: Channels of the output.
        kernel_size: 1 or 3.
        actnorm: Whether there is an ActNorm. False: a bias takes its place, 0 at first.
        padding: The border that a 3x3 kernel sees: ``zeros``, or one of ``pad``.

    Source: Kingma & Dhariwal 2018, section 3.3 and the authors' code.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, *, actnorm: bool = True, padding: str = "zeros"
    ) -> None:
        super().__init__()
        self.padding = padding if kernel_size > 1 else "zeros"
        in_channels += self.padding == "indicator"
        self.weight = nn.Parameter(0.05 * torch.randn(out_channels, in_channels, kernel_size, kernel_size))
        self.actnorm = ActNorm(out_channels) if actnorm else None
        self.bias = None if actnorm else nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        if self.is_initialized:
            return padded_conv2d(x, *self.folded(), self.padding)
        assert self.actnorm is not None
        return self.actnorm.normalize(padded_conv2d(x, self.weight, None, self.padding))

    @property
    def is_initialized(self) -> bool:
        """Whether the ActNorm, if there is one, needs no data any more."""
        return self.actnorm is None or self.actnorm.is_ready

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution that equals convolution and ActNorm."""
        if self.actnorm is None:
            assert self.bias is not None
            return self.weight, self.bias
        scale = self.actnorm.log_scale.exp()  # [out]
        return self.weight * scale.view(-1, 1, 1, 1), self.actnorm.bias * scale


class ZeroConv2d(nn.Module):
    """A 3x3 convolution times ``exp(3 log_scale)``, with one learned scale a channel; its output is 0 at first.

    Source: Kingma & Dhariwal 2018, section 3.3 and the authors' code.
    """

    def __init__(self, in_channels: int, out_channels: int, padding: str = "zeros") -> None:
        super().__init__()
        self.padding = padding
        in_channels += padding == "indicator"
        self.weight = nn.Parameter(torch.zeros(out_channels, in_channels, 3, 3))
        self.bias = nn.Parameter(torch.zeros(out_channels))
        self.log_scale = nn.Parameter(torch.zeros(out_channels))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``[N, in_channels, H, W]`` to ``[N, out_channels, H, W]``."""
        return padded_conv2d(x, *self.folded(), self.padding)

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the one convolution that equals convolution and scale."""
        scale = (3 * self.log_scale).exp()  # [out]
        return self.weight * scale.view(-1, 1, 1, 1), self.bias * scale


class ContextConv2d(nn.Module):
    """A 1x1 convolution of the context, ``[N, K, 1, 1]`` or ``[N, K, H, W]``, without bias; its output is 0 at first.

    Raises:
        ValueError: in forward, when the context is None.
    """

    def __init__(self, context_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, context_channels, 1, 1))

    def forward(self, context: Tensor | None) -> Tensor:
        """Map the context to ``out_channels`` channels."""
        return F.conv2d(self.check(context), self.weight)

    @staticmethod
    def check(context: Tensor | None) -> Tensor:
        """Return the context, or raise a ValueError when it is None."""
        if context is None:
            raise ValueError("this model is conditional: it needs labels")
        return context


def padded_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: str) -> Tensor:
    """Convolve ``[N, C, H, W]``, keeping height and width; a 3x3 kernel sees a border of the kind ``padding``."""
    if padding == "zeros":
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
    return F.conv2d(pad(x, padding), weight, bias)


def pad(x: Tensor, padding: str) -> Tensor:
    """Add a border of one pixel to ``[N, C, H, W]``.

    Args:
        x: The images.
        padding: ``ones``: the border is 1. ``indicator``: the border is 0, and one more channel says where it is: 0
            inside, 1 on the border.

    Source: the authors' code of Kingma & Dhariwal 2018 (``indicator``); rosinality's (``ones``).
    """
    if padding == "ones":
        return F.pad(x, (1, 1, 1, 1), value=1.0)
    indicator = F.pad(x.new_zeros(1, 1, *x.shape[2:]), (1, 1, 1, 1), value=1.0)
    return torch.cat([F.pad(x, (1, 1, 1, 1)), indicator.expand(len(x), -1, -1, -1)], dim=1)
