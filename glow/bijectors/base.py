"""What every invertible map keeps: data to latent forwards, with its log-determinant, and back."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Bijector(nn.Module):
    """An invertible map of ``[N, ...]`` to ``[N, ...]``.

    ``forward(x, context=None) -> (z, logdet)`` and ``inverse(z, context=None) -> (x, logdet)``, each with the
    log-determinant of its own Jacobian, ``[N]``, in nats, summed over all dimensions of an example.
    """

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        raise NotImplementedError

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        raise NotImplementedError

    def invert(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Map latents to data, without the log-determinant."""
        return self.inverse(z, context)[0]

    def replay(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Rebuild the argument that ``forward`` mapped to ``z``, and record ``forward`` for its gradients.

        Call it with gradients enabled.

        Returns:
            A leaf that receives the gradient of the argument; the argument, detached; what forward makes of it, and its
            logdet, both recorded.
        """
        with torch.no_grad():
            x = self.invert(z, context)
        leaf = x.detach().requires_grad_()
        return leaf, x, *self(leaf, context)


class Composition(Bijector):
    """Bijectors one after the other; their log-determinants add up."""

    bijectors: Sequence[Bijector]

    def __init__(self, *bijectors: Bijector) -> None:
        super().__init__()
        self.bijectors = nn.ModuleList(bijectors)  # type: ignore[assignment]

    @property
    def parts(self) -> Sequence[Bijector]:
        """Return what is applied, first to last."""
        return self.bijectors

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply all, first to last."""
        total = x.new_zeros(len(x))
        for bijector in self.parts:
            x, logdet = bijector(x, context)
            total = total + logdet
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Undo all, last to first."""
        total = z.new_zeros(len(z))
        for bijector in reversed(self.parts):
            z, logdet = bijector.inverse(z, context)
            total = total + logdet
        return z, total

    def invert(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Undo all, last to first."""
        for bijector in reversed(self.parts):
            z = bijector.invert(z, context)
        return z


class Inverse(Bijector):
    """Another bijector turned around: its inverse maps data to latents, and it maps latents to data.

    A map whose forward direction alone is cheap (planar) becomes one that is cheap to sample from. Log-determinant and
    cost of either direction are those of the other.
    """

    def __init__(self, bijector: Bijector) -> None:
        super().__init__()
        self.bijector = bijector

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        return self.bijector.inverse(x, context)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        return self.bijector(z, context)


def sum_per_example(values: Tensor) -> Tensor:
    """Sum over all dimensions but the first: ``[N, ...] -> [N]``."""
    dims = tuple(range(1, values.dim()))
    return values.sum(dims) if dims else values
