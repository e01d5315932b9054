"""One step of the flow: ActNorm, 1x1 convolution, coupling."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glow.bijectors.actnorm import ActNorm
from glow.bijectors.base import Bijector, Composition
from glow.bijectors.conv1x1 import Conv1x1, affine
from glow.bijectors.reuse import Reusing

Map = tuple[Tensor, Tensor]


class FlowStep(Composition, Reusing):
    """ActNorm, a 1x1 convolution or permutation, a coupling; x is ``[N, C, H, W]``.

    ActNorm and a 1x1 convolution run as one affine map of each pixel. The parameters keep the names that they have in
    the three bijectors.

    Attributes:
        compiled: The compiled step, or None; see ``execution.compiling``.

    Source: Kingma & Dhariwal 2018, table 1.
    """

    def __init__(self, actnorm: ActNorm, mixing: Bijector, coupling: Bijector) -> None:
        super().__init__(actnorm, mixing, coupling)
        if isinstance(mixing, Conv1x1):
            self._parts: Sequence[Bijector] = (_NormalizedConv1x1(actnorm, mixing, self.reuse), coupling)
        else:
            self._parts = (actnorm, mixing, coupling)
        self._reusing = [module for module in self.modules() if isinstance(module, Reusing)]
        self.compiled: Callable[[FlowStep, Tensor, Tensor | None], tuple[Tensor, Tensor]] | None = None

    @property
    def parts(self) -> Sequence[Bijector]:
        """The bijectors that run, in order: the first two may be merged."""
        return self._parts

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        for module in self._reusing:
            module.forget()
        if self.compiled is not None and torch.is_grad_enabled() and x.requires_grad:
            return self.compiled(self, x, context)
        return super().forward(x, context)

    def apply_parts(self, x: Tensor, context: Tensor | None) -> tuple[Tensor, Tensor]:
        """Map data to latents, with z in the memory layout channels_last. This is the function that is compiled."""
        z, logdet = super().forward(x, context)
        return z.contiguous(memory_format=torch.channels_last), logdet


class _NormalizedConv1x1(Bijector):
    """``z = W ((x + bias) * exp(log_scale))``: one product and one addition for each pixel of ``[N, C, H, W]``."""

    def __init__(self, actnorm: ActNorm, conv: Conv1x1, reuse: Callable[[Callable[[], Map]], Map]) -> None:
        super().__init__()
        self.actnorm = actnorm
        self.conv = conv
        self.reuse = reuse

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        if not self.actnorm.is_ready:
            x, logdet = self.actnorm(x)
            z, more = self.conv(x)
            return z, logdet + more
        matrix = self.conv.weight() * self.actnorm.log_scale.exp()
        return affine(x, matrix, matrix @ self.actnorm.bias), self.actnorm.logdet(x) + self.conv.logdet(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        return self.invert(z), -self.actnorm.logdet(z) - self.conv.logdet(z)

    def invert(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Map latents to data, without the log-determinant."""
        self.actnorm.check()
        return affine(z, *self.reuse(self._inverse_map))

    def _inverse_map(self) -> Map:
        """Return matrix and offset of the inverse map."""
        return self.conv.compute_inverse_weight() * (-self.actnorm.log_scale).exp()[:, None], -self.actnorm.bias
