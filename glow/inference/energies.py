"""Four energies in two dimensions, as targets."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from glow.inference.targets import Target


class Energy(Target):
    """``-U(z) - W(z1)``, where U is one of the four energies of Rezende & Mohamed, in two dimensions.

    U2, U3 and U4 are periodic in z1, so exp(-U) has no integral. The paper shows the square of side 8. The wall W makes
    the density proper: it is 0 inside the square, and ``((|z1| - 4) / 0.4)^2 / 2`` for |z1| > 4. U1 needs none.

    Source: Rezende & Mohamed 2015 (arXiv 1505.05770), table 1.
    """

    half_width = 8.0

    def __init__(self, name: str) -> None:
        super().__init__(name, 2, ("z1", "z2"))
        self.energy = ENERGIES[name]

    def log_density(self, x: Tensor) -> Tensor:
        """Return ``-U(x) - W(x1)``."""
        return -self.energy(x[:, 0], x[:, 1])


def _u1(z1: Tensor, z2: Tensor) -> Tensor:
    # |z| has no gradient at 0.
    radius = (z1.square() + z2.square()).clamp(min=torch.finfo(z1.dtype).tiny).sqrt()
    return _parabola(radius - 2, 0.4) - torch.logaddexp(-_parabola(z1 - 2, 0.6), -_parabola(z1 + 2, 0.6))


def _u2(z1: Tensor, z2: Tensor) -> Tensor:
    return _parabola(z2 - _wave(z1), 0.4) + _wall(z1)


def _u3(z1: Tensor, z2: Tensor) -> Tensor:
    offset = z2 - _wave(z1)
    bump = 3 * (-_parabola(z1 - 1, 0.6)).exp()
    return _wall(z1) - torch.logaddexp(-_parabola(offset, 0.35), -_parabola(offset + bump, 0.35))


def _u4(z1: Tensor, z2: Tensor) -> Tensor:
    offset = z2 - _wave(z1)
    step = 3 * ((z1 - 1) / 0.3).sigmoid()
    return _wall(z1) - torch.logaddexp(-_parabola(offset, 0.4), -_parabola(offset + step, 0.35))


def _parabola(x: Tensor, scale: float) -> Tensor:
    return 0.5 * (x / scale).square()


def _wave(z1: Tensor) -> Tensor:
    return (2 * math.pi * z1 / 4).sin()


def _wall(z1: Tensor) -> Tensor:
    return _parabola((z1.abs() - 4).clamp(min=0), 0.4)


ENERGIES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"u1": _u1, "u2": _u2, "u3": _u3, "u4": _u4}
