"""Which half of a state a coupling changes, given the other half; or all of it, given the context."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Mask(Protocol):
    """Cuts a state in two halves, and puts them together again."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the half that is given and the half that is changed."""

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Undo ``split``."""

    def given(self, x_a: Tensor) -> Tensor:
        """Return what the network sees of the given half."""

    def changed(self, output: Tensor) -> Tensor:
        """Return that part of the network's output that belongs to the changed half."""


class ChannelMask:
    """One half of the channels, or of a vector, is given, the other changed: ``[N, C, ...]``, C of 2 or more.

    The first half is given at parity 0, the second at parity 1. Of an odd C the first half has one more.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP, arXiv 1605.08803), section 3.4.
    """

    def __init__(self, parity: int = 0) -> None:
        self.parity = parity

    def sizes(self, num_channels: int) -> tuple[int, int]:
        """Return how many channels are given, and how many changed."""
        first = (num_channels + 1) // 2
        return (num_channels - first, first) if self.parity else (first, num_channels - first)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the given and the changed half."""
        first, second = x.chunk(2, dim=1)
        return (second, first) if self.parity else (first, second)

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Put them together."""
        return torch.cat([x_b, x_a] if self.parity else [x_a, x_b], dim=1)

    def given(self, x_a: Tensor) -> Tensor:
        """Return the half itself."""
        return x_a

    def changed(self, output: Tensor) -> Tensor:
        """Return the whole output."""
        return output


class CheckerboardMask:
    """Pixels with ``row + column + parity`` even are given, the others changed: ``[N, C, H, W]``, W even.

    Halves are ``[N, C, H, W/2]``; the network sees all pixels, the changed ones as 0.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP, arXiv 1605.08803), section 3.4.
    """

    def __init__(self, parity: int) -> None:
        self.parity = parity

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return given and changed pixels."""
        left, right = x.unflatten(-1, (-1, 2)).unbind(-1)
        given_is_left = self._given_is_left(x)
        return torch.where(given_is_left, left, right), torch.where(given_is_left, right, left)

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Put them together."""
        given_is_left = self._given_is_left(x_a)
        pairs = torch.where(given_is_left, x_a, x_b), torch.where(given_is_left, x_b, x_a)
        return torch.stack(pairs, dim=-1).flatten(-2)

    def given(self, x_a: Tensor) -> Tensor:
        """Return the image of the given pixels, ``[N, C, H, W]``."""
        return self.join(x_a, torch.zeros_like(x_a))

    def changed(self, output: Tensor) -> Tensor:
        """Return the output at the changed pixels."""
        return self.split(output)[1]

    def _given_is_left(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[2], device=x.device)
        return ((rows + self.parity) % 2 == 0)[:, None]


class EmptyMask:
    """Nothing is given and all is changed, ``[N, C, ...]``: the network sees the context alone."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return no channels, and all."""
        return x[:, :0], x

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Return all."""
        return x_b

    def given(self, x_a: Tensor) -> Tensor:
        """Return no channels."""
        return x_a

    def changed(self, output: Tensor) -> Tensor:
        """Return the whole output."""
        return output
