"""Invertible 1x1 convolutions and permutations: they mix the channels of every pixel, or the numbers of a vector."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.base import Bijector
from glow.bijectors.reuse import Reusing


class Conv1x1(Bijector, Reusing):
    """The base of the invertible 1x1 convolutions: ``z = W x`` at every pixel, logdet ``H W log|det W|``.

    ``x`` is ``[N, C, H, W]`` or ``[N, C]``. A subclass implements ``weight`` and ``log_abs_det``. The inverse of W is
    computed in float64. In eval mode, without gradients, it is kept until a parameter changes.
    """

    def weight(self) -> Tensor:
        """Return W, ``[C, C]``."""
        raise NotImplementedError

    def log_abs_det(self) -> Tensor:
        """Return log|det W|, a scalar."""
        raise NotImplementedError

    def set_weight(self, weight: Tensor) -> None:
        """Make W the matrix ``weight``, ``[C, C]``, float64; up to rounding."""
        raise NotImplementedError

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        self.forget()
        return affine(x, self.weight()), self.logdet(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        return affine(z, self.inverse_weight()), -self.logdet(z)

    def inverse_weight(self) -> Tensor:
        """Return the inverse of W, ``[C, C]``, kept from an earlier call where possible."""
        return self.reuse(self.compute_inverse_weight)

    def logdet(self, x: Tensor) -> Tensor:
        """Return the log-determinant ``[N]`` for an x of this shape."""
        return (self.log_abs_det() * math.prod(x.shape[2:])).expand(len(x))

    def compute_inverse_weight(self) -> Tensor:
        """Compute the inverse of W, ``[C, C]``."""
        weight = self.weight()
        return torch.linalg.inv(weight.double()).to(weight.dtype)


class PlainConv1x1(Conv1x1):
    """W itself is the parameter. Every call computes log|det W| in float64, at a cost of O(C^3).

    Source: Kingma & Dhariwal 2018, section 3.2, equation 9.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.matrix = nn.Parameter(_random_rotation(num_channels))

    def weight(self) -> Tensor:
        """Return W, ``[C, C]``."""
        return self.matrix

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Make W the matrix ``weight``, ``[C, C]``, float64; up to rounding."""
        self.matrix.copy_(weight)

    def log_abs_det(self) -> Tensor:
        """Return log|det W|, a scalar."""
        return torch.linalg.slogdet(self.matrix.double()).logabsdet.to(self.matrix.dtype)


class LUConv1x1(Conv1x1):
    """``W = P L (U + diag(sign exp(log_s)))``: log|det W| is ``sum(log_s)``, and W is never singular.

    L (unit lower triangular), U (strictly upper triangular) and log_s are learned; P and the signs are fixed.

    Source: Kingma & Dhariwal 2018, section 3.2, equations 10 and 11.
    """

    permutation: Tensor
    sign: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.zeros(num_channels, num_channels))
        self.upper = nn.Parameter(torch.zeros(num_channels, num_channels))
        self.log_s = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("permutation", torch.zeros(num_channels, num_channels))
        self.register_buffer("sign", torch.zeros(num_channels))
        self.set_weight(_random_rotation(num_channels).double())

    @torch.no_grad()
    def set_weight(self, weight: Tensor) -> None:
        """Make W the matrix ``weight``, ``[C, C]``, float64; up to rounding."""
        permutation, lower, upper = torch.linalg.lu(weight)
        diagonal = upper.diagonal()
        self.permutation.copy_(permutation)
        self.lower.copy_(lower.tril(-1))
        self.upper.copy_(upper.triu(1))
        self.log_s.copy_(diagonal.abs().log())
        self.sign.copy_(diagonal.sign())

    def weight(self) -> Tensor:
        """Return W, ``[C, C]``."""
        identity = torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        lower = self.lower.tril(-1) + identity
        upper = self.upper.triu(1) + torch.diag(self.sign * self.log_s.exp())
        return self.permutation @ lower @ upper

    def log_abs_det(self) -> Tensor:
        """Return log|det W|, a scalar."""
        return self.log_s.sum()


class OrthogonalConv1x1(Conv1x1):
    """``W = exp(A - A^T)``, a rotation: log|det W| is 0. A, strictly lower triangular, is learned.

    Cost: one matrix exponential, O(C^3).

    Source: Lezcano-Casado & Martinez-Rubio 2019 (arXiv 1901.08428), section 3.
    """

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.lower = nn.Parameter(torch.randn(num_channels, num_channels).tril(-1))

    def weight(self) -> Tensor:
        """Return W, ``[C, C]``."""
        lower = self.lower.tril(-1)
        return torch.linalg.matrix_exp(lower - lower.T)

    def log_abs_det(self) -> Tensor:
        """Return 0."""
        return self.lower.new_zeros(())


class Permutation(Bijector):
    """Put the channels in another, fixed order; logdet 0. A baseline for the learned 1x1 convolutions.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP); Kingma & Dhariwal 2018, section 3.2 and figure 3.
    """

    order: Tensor
    inverse_order: Tensor

    def __init__(self, order: Tensor) -> None:
        super().__init__()
        self.register_buffer("order", order)
        self.register_buffer("inverse_order", order.argsort())

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        return x[:, self.order], x.new_zeros(len(x))

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        return z[:, self.inverse_order], z.new_zeros(len(z))


def reverse(num_channels: int) -> Permutation:
    """Return the permutation that reverses the channels."""
    return Permutation(torch.arange(num_channels - 1, -1, -1))


def shuffle(num_channels: int) -> Permutation:
    """Draw a fixed random permutation from torch's default generator."""
    return Permutation(torch.randperm(num_channels))


PERMUTATIONS: dict[str, Callable[[int], Bijector]] = {
    "lu": LUConv1x1,
    "plain": PlainConv1x1,
    "orthogonal": OrthogonalConv1x1,
    "reverse": reverse,
    "shuffle": shuffle,
}


def _random_rotation(num_channels: int) -> Tensor:
    """Draw a random orthogonal matrix from torch's default generator."""
    return torch.linalg.qr(torch.randn(num_channels, num_channels, dtype=torch.float64)).Q.float()


def affine(x: Tensor, matrix: Tensor, offset: Tensor | None = None) -> Tensor:
    """Multiply the channels of ``x [N, C, ...]`` by ``matrix [C, C]`` and add ``offset [C]``.

    The result has the memory layout channels_last. An x of that layout is not copied.
    """
    pixels = x.movedim(1, -1)  # [N, ..., C]
    return F.linear(pixels.reshape(-1, len(matrix)), matrix, offset).view(pixels.shape).movedim(-1, 1)
