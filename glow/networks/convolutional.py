"""Coupling networks, and the convolutions that they are made of."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.reuse import Reusing
from glow.networks.pixelwise import three_layers
from glow.networks.windows import overlaps, windows

_LastLayer = tuple[Tensor, Tensor, Tensor | None]


class NormalizedConv2d(nn.Module):
    """A convolution without bias, then ActNorm; weights are drawn from N(0, 0.05^2).

    The scale and bias of the ActNorm are folded into the convolution, which spares a pass over its output.

    Args:
        in_channels: Of the input.
        out_channels: Of the output.
        kernel_size: 1 or 3.
        actnorm: False: a bias, 0 at first, takes the place of the ActNorm.
        padding: See ``pad``.
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
        """Whether there is no ActNorm that waits for data."""
        return self.actnorm is None or self.actnorm.is_ready

    def folded(self) -> tuple[Tensor, Tensor]:
        """Return weight and bias of the convolution that does it all."""
        if self.actnorm is None:
            assert self.bias is not None
            return self.weight, self.bias
        scale = self.actnorm.log_scale.exp()
        return self.weight * scale.view(-1, 1, 1, 1), self.actnorm.bias * scale


class ZeroConv2d(nn.Module):
    """A 3x3 convolution times ``exp(3 log_scale)``, a learned scale a channel; its output is 0 at first.

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
        """Return weight and bias of the convolution that does it all."""
        scale = (3 * self.log_scale).exp()
        return self.weight * scale.view(-1, 1, 1, 1), self.bias * scale


class Network(Reusing):
    """A coupling network: ``[N, in_channels, H, W]``, and the context, to ``[N, out_channels, H, W]``.

    ``compute_dtype`` is the precision that it runs in under autocast (None: that of the input); the result always has
    the dtype of the input. With ``is_recomputed`` nothing in between is kept for the backward pass, which computes it
    again. A subclass says what is computed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype: torch.dtype | None = None
        self.is_recomputed = False

    def forward(self, x: Tensor, context: Tensor | None = None) -> Tensor:
        """Map a state, given the context."""
        dtype = self.compute_dtype
        with torch.autocast(x.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            if self.is_recomputed and torch.is_grad_enabled():
                output = checkpoint(self.compute, x, context, use_reentrant=False, preserve_rng_state=False)
            else:
                output = self.compute(x, context)
            return output.to(x.dtype)

    def compute(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return the output, in any precision."""
        raise NotImplementedError


class CouplingNet(Network):
    """3x3 - 1x1 - 3x3 convolutions with ActNorm and ReLU; the last one is zero-initialised.

    Input and output are narrow beside the hidden layers. So windows of the input are taken before the first product,
    windows of the output are added up after the last, and what lies between is three dense layers at every pixel.

    Args:
        in_channels: Of the input.
        hidden_channels: Of both hidden layers.
        out_channels: Of the output.
        context_channels: Of the context, which is added to the first hidden layer by a 1x1 convolution. 0: none.
        actnorm: Whether the hidden layers are normalised.
        padding: See ``pad``; ones, for the last convolution alone.

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

    def compute(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Apply the convolutions."""
        if not (self.conv1.is_initialized and self.conv2.is_initialized):
            return self.compute_layer_by_layer(x, context)
        size, dtype = (len(x), *x.shape[2:]), self.compute_dtype or x.dtype
        first, second, (last, last_bias, border) = self.reuse(partial(self._layers, dtype), dtype)
        rows = self._rows(x.to(dtype), context).flatten(0, 2)
        output = overlaps(three_layers(rows, first, second, last).unflatten(0, size)) + last_bias
        if border is not None:
            output = output + F.linear(_border(output), border)
        return output.permute(0, 3, 1, 2)

    def compute_layer_by_layer(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Apply one convolution after the other: what initialises the ActNorms between them."""
        hidden = self.conv1(x)
        if self.context is not None:
            hidden = hidden + self.context(context)
        return self.conv3(F.relu(self.conv2(F.relu(hidden))))

    def _layers(self, dtype: torch.dtype) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor], _LastLayer]:
        """Return matrix and bias of each dense layer, and of the last what it makes of the border."""
        (weight1, bias1), (weight2, bias2), (weight3, bias3) = (
            [part.to(dtype) for part in layer.folded()] for layer in (self.conv1, self.conv2, self.conv3)
        )
        num_channels = weight1.shape[1] - (self.conv1.padding == "indicator")
        # In the order of _rows.
        first = [weight1[:, :num_channels].permute(0, 2, 3, 1).flatten(1), weight1[:, num_channels:].flatten(1)]
        if self.context is not None:
            first.append(self.context.weight.to(dtype).flatten(1))
        # A pixel adds to its neighbours what it is multiplied by for them: the kernel turned by 180 degrees.
        last = weight3[:, : len(weight2)].flip(2, 3).permute(2, 3, 0, 1).flatten(0, 2)
        border = {"zeros": None, "ones": weight3.sum(1).flatten(1), "indicator": weight3[:, -1].flatten(1)}
        return (torch.cat(first, 1), bias1), (weight2.flatten(1), bias2), (last, bias3, border[self.conv3.padding])

    def _rows(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Return what the first layer sees of each pixel, ``[N, H, W, in]``."""
        rows = [windows(x.permute(0, 2, 3, 1))]
        if self.conv1.padding == "indicator":
            rows.append(_border(rows[0]).expand(*rows[0].shape[:3], -1))
        if self.context is not None:
            rows.append(self.context.check(context).to(x.dtype).permute(0, 2, 3, 1).expand(*rows[0].shape[:3], -1))
        return rows[0] if len(rows) == 1 else torch.cat(rows, 3)


class ContextConv2d(nn.Module):
    """A 1x1 convolution of the context, ``[N, C, 1, 1]`` or ``[N, C, H, W]``, without bias and 0 at first."""

    def __init__(self, context_channels: int, out_channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(out_channels, context_channels, 1, 1))

    def forward(self, context: Tensor | None) -> Tensor:
        """Map the context.

        Raises:
            ValueError: when there is none.
        """
        return F.conv2d(self.check(context), self.weight)

    @staticmethod
    def check(context: Tensor | None) -> Tensor:
        """Return the context, or raise a ValueError when there is none."""
        if context is None:
            raise ValueError("this model is conditional: it needs labels")
        return context


def padded_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, padding: str) -> Tensor:
    """Convolve ``[N, C, H, W]``, keeping height and width; a 3x3 kernel sees a border of the kind ``padding``."""
    if padding == "zeros":
        return F.conv2d(x, weight, bias, padding=weight.shape[2] // 2)
    return F.conv2d(pad(x, padding), weight, bias)


def pad(x: Tensor, padding: str) -> Tensor:
    """Add a border of one pixel.

    Args:
        x: ``[N, C, H, W]``.
        padding: ``ones``: the border is 1. ``indicator``: it is 0, and a further channel, 0 inside, is 1 there (the
            authors' code of Kingma & Dhariwal 2018).
    """
    if padding == "ones":
        return F.pad(x, (1, 1, 1, 1), value=1.0)
    indicator = F.pad(x.new_zeros(1, 1, *x.shape[2:]), (1, 1, 1, 1), value=1.0)
    return torch.cat([F.pad(x, (1, 1, 1, 1)), indicator.expand(len(x), -1, -1, -1)], dim=1)


def _border(like: Tensor) -> Tensor:
    """Return the 3x3 windows of what is 0 inside ``like [N, H, W, C]`` and 1 outside: ``[1, H, W, 9]``."""
    return 1 - windows(like.new_ones(1, *like.shape[1:3], 1))
