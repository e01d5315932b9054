"""The interface of all bijectors, and how they are chained and turned around."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class Bijector(nn.Module):
    """An invertible map of data x to latents z, both ``[N, ...]``.

    ``forward(x, context=None)`` returns ``(z, logdet)``, ``inverse(z, context=None)`` returns ``(x, logdet)``. Each
    logdet is the log-determinant of the map's own Jacobian: ``[N]``, in nats, summed over all dimensions of an example.
    Every example is mapped on its own. Only a conditional bijector uses the context.

    To write one, inherit from this class, define the parameters, and implement ``forward`` and ``inverse``.
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
        """Rebuild x from z, and run ``forward`` on it again, so that autograd can differentiate it.

        The memory mode ``reversible`` calls this in the backward pass, with gradients enabled. A subclass overrides it
        when inverse and forward share work.

        Returns:
            A leaf that receives the gradient of x; x, detached; and the z and logdet of ``forward``, recorded.
        """
        with torch.no_grad():
            x = self.invert(z, context)
        leaf = x.detach().requires_grad_()
        return leaf, x, *self(leaf, context)


class Composition(Bijector):
    """Bijectors one after the other; their log-determinants are added.

    Attributes:
        bijectors: The bijectors, in the order of ``forward``.
    """

    bijectors: Sequence[Bijector]

    def __init__(self, *bijectors: Bijector) -> None:
        super().__init__()
        self.bijectors = nn.ModuleList(bijectors)  # type: ignore[assignment]

    @property
    def parts(self) -> Sequence[Bijector]:
        """The bijectors that run, in order. A subclass may merge some of them."""
        return self.bijectors

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents, by all bijectors in order."""
        total = x.new_zeros(len(x))
        for bijector in self.parts:
            x, logdet = bijector(x, context)
            total = total + logdet
        return x, total

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data, by all inverses in reverse order."""
        total = z.new_zeros(len(z))
        for bijector in reversed(self.parts):
            z, logdet = bijector.inverse(z, context)
            total = total + logdet
        return z, total

    def invert(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Map latents to data, without the log-determinant."""
        for bijector in reversed(self.parts):
            z = bijector.invert(z, context)
        return z


class Inverse(Bijector):
    """A bijector turned around: ``forward`` is the inverse of the given bijector, ``inverse`` its forward direction.

    Some maps, such as ``Planar``, are cheap in one direction only. Turned around, they are cheap to sample from.
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
