"""Coupling layers: a network looks at one half of the state and says how to change the other half."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.base import Bijector, sum_per_example
from glow.bijectors.mask import ChannelMask, Mask


class Coupling(Bijector):
    """``z_a = x_a``, ``z_b = T(x_b)``, where ``net(x_a)`` returns the parameters of the elementwise map T.

    The logdet is the sum of the log-derivatives of T. A subclass implements T by ``transform`` and
    ``inverse_transform``. Cost: one call of the network in either direction.

    Args:
        net: The network. Its input is x_a (see ``Mask.given``) and the context; its output has ``num_parameters``
            channels for each channel of x_b.
        mask: Which half is changed. Default: the second half of the channels.
    """

    num_parameters: int

    def __init__(self, net: nn.Module, mask: Mask | None = None) -> None:
        super().__init__()
        self.net = net
        self.mask = mask or ChannelMask()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        x_a, x_b = self.mask.split(x)
        z_b, logdet = self.transform(x_b, self._net_output(x_a, context))
        return self.mask.join(x_a, z_b), sum_per_example(logdet)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        z_a, z_b = self.mask.split(z)
        x_b, logdet = self.inverse_transform(z_b, self._net_output(z_a, context))
        return self.mask.join(z_a, x_b), sum_per_example(logdet)

    def invert(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Map latents to data, without the log-determinant."""
        z_a, z_b = self.mask.split(z)
        return self.mask.join(z_a, self.inverse_transform(z_b, self._net_output(z_a, context))[0])

    def replay(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rebuild x from z and run ``forward`` again, with one call of the network for both."""
        leaf = z.detach().requires_grad_()
        x_a, place = self.mask.split(leaf)
        parameters = self._net_output(x_a, context)
        with torch.no_grad():
            x_b, _ = self.inverse_transform(place, parameters)
            x = self.mask.join(x_a, x_b)
        # This has the values of x_b, and the gradient goes to the leaf.
        z_b, logdet = self.transform(x_b + (place - place.detach()), parameters)
        return leaf, x, self.mask.join(x_a, z_b), sum_per_example(logdet)

    def transform(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return T(x) and the log-derivatives of T at x, for x ``[N, c, ...]`` and its parameters.

        Args:
            x: ``[N, c, ...]``.
            parameters: ``[N, num_parameters * c, ...]``.
        """
        raise NotImplementedError

    def inverse_transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inverse of T at z, and its log-derivatives; the arguments are as for ``transform``."""
        raise NotImplementedError

    def _net_output(self, x_a: Tensor, context: Tensor | None) -> Tensor:
        return self.mask.changed(self.net(self.mask.given(x_a), context))


class AffineCoupling(Coupling):
    """``T(x) = (x + shift) * exp(log_scale(h))`` with log-derivative ``log_scale(h)``; the network returns shift and h.

    Args:
        net: As for ``Coupling``.
        mask: As for ``Coupling``.
        scale: Names the function ``log_scale``: ``sigmoid``, ``exp`` or ``tanh``.
        shifts_last: Whether ``T(x) = x * exp(log_scale(h)) + shift``. Where the scale is small beside the shift, fewer
            digits of x come back.

    Source: Kingma & Dhariwal 2018, table 1. The paper shifts last; the authors' code shifts first.
    """

    num_parameters = 2

    def __init__(
        self, net: nn.Module, mask: Mask | None = None, scale: str = "sigmoid", *, shifts_last: bool = False
    ) -> None:
        super().__init__(net, mask)
        self.log_scale = LOG_SCALES[scale]
        self.shifts_last = shifts_last

    def transform(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Shift and scale."""
        shift, h = parameters.chunk(2, dim=1)
        log_scale = self.log_scale(h)
        if self.shifts_last:
            return x * log_scale.exp() + shift, log_scale
        return (x + shift) * log_scale.exp(), log_scale

    def inverse_transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift back."""
        shift, h = parameters.chunk(2, dim=1)
        log_inverse_scale = -self.log_scale(h)
        if self.shifts_last:
            return (z - shift) * log_inverse_scale.exp(), log_inverse_scale
        return z * log_inverse_scale.exp() - shift, log_inverse_scale


class AdditiveCoupling(Coupling):
    """``T(x) = x + shift`` with log-derivative 0; the network returns shift.

    Source: Dinh, Krueger & Bengio 2015 (NICE, arXiv 1410.8516), section 3.2.
    """

    num_parameters = 1

    def transform(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Shift."""
        return x + parameters, torch.zeros_like(x)

    def inverse_transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Shift back."""
        return z - parameters, torch.zeros_like(z)


def sigmoid_log_scale(h: Tensor) -> Tensor:
    """Return ``log sigmoid(h + 2)``, which is below 0.

    It is computed by logsigmoid: sigmoid alone underflows.

    Source: the authors' code of Kingma & Dhariwal 2018.
    """
    return F.logsigmoid(h + 2)


def exp_log_scale(h: Tensor) -> Tensor:
    """Return ``h``: the scale exp(h) has no bounds.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP, arXiv 1605.08803), section 3.2.
    """
    return h


def tanh_log_scale(h: Tensor) -> Tensor:
    """Return ``2 tanh(h / 2)``: the scale lies between exp(-2) and exp(2).

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP, arXiv 1605.08803), section 4.1, which bounds the log-scale by
    a learned multiple of tanh.
    """
    return 2 * torch.tanh(h / 2)


LOG_SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "sigmoid": sigmoid_log_scale,
    "exp": exp_log_scale,
    "tanh": tanh_log_scale,
}
