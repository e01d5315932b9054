"""Masks: which half of the state a coupling changes, and which half its network sees."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor


class Mask(Protocol):
    """Cuts a state into x_a, which the network sees, and x_b, which the coupling changes."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_a and x_b."""

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Return the whole state: the inverse of ``split``."""

    def given(self, x_a: Tensor) -> Tensor:
        """Return the input of the network."""

    def changed(self, output: Tensor) -> Tensor:
        """Return the part of the network's output that belongs to x_b."""


class ChannelMask:
    """Cut the channels ``[N, C, ...]`` in two halves; C is 2 or more.

    At parity 0, x_a is the first half and x_b the second; at parity 1 it is the other way round. With an odd C, the
    first half has one channel more.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP, arXiv 1605.08803), section 3.4.
    """

    def __init__(self, parity: int = 0) -> None:
        self.parity = parity

    def sizes(self, num_channels: int) -> tuple[int, int]:
        """Return the number of channels of x_a and of x_b."""
        first = (num_channels + 1) // 2
        return (num_channels - first, first) if self.parity else (first, num_channels - first)

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_a and x_b."""
        first, second = x.chunk(2, dim=1)
        return (second, first) if self.parity else (first, second)

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Return the whole state."""
        return torch.cat([x_b, x_a] if self.parity else [x_a, x_b], dim=1)

    def given(self, x_a: Tensor) -> Tensor:
        """Return x_a itself."""
        return x_a

    def changed(self, output: Tensor) -> Tensor:
        """Return the whole output."""
        return output


class CheckerboardMask:
    """Cut the pixels ``[N, C, H, W]``, W even, like a checkerboard.

    x_a has the pixels with an even ``row + column + parity``. x_a and x_b are ``[N, C, H, W/2]``.
    The network sees an image ``[N, C, H, W]`` in which the pixels of x_b are 0.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP, arXiv 1605.08803), section 3.4.
    """

    def __init__(self, parity: int) -> None:
        self.parity = parity

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_a and x_b."""
        left, right = x.unflatten(-1, (-1, 2)).unbind(-1)  # [N, C, H, W/2] each
        given_is_left = self._given_is_left(x)
        return torch.where(given_is_left, left, right), torch.where(given_is_left, right, left)

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Return the whole state."""
        given_is_left = self._given_is_left(x_a)
        pairs = torch.where(given_is_left, x_a, x_b), torch.where(given_is_left, x_b, x_a)
        return torch.stack(pairs, dim=-1).flatten(-2)

    def given(self, x_a: Tensor) -> Tensor:
        """Return x_a as an image ``[N, C, H, W]``, with 0 for the other pixels."""
        return self.join(x_a, torch.zeros_like(x_a))

    def changed(self, output: Tensor) -> Tensor:
        """Return the output at the pixels of x_b."""
        return self.split(output)[1]

    def _given_is_left(self, x: Tensor) -> Tensor:
        rows = torch.arange(x.shape[2], device=x.device)
        return ((rows + self.parity) % 2 == 0)[:, None]


class EmptyMask:
    """Change the whole state ``[N, C, ...]``: x_a is empty, and the network sees the context only."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return x_a, which has no channels, and x_b, the whole state."""
        return x[:, :0], x

    def join(self, x_a: Tensor, x_b: Tensor) -> Tensor:
        """Return x_b, the whole state."""
        return x_b

    def given(self, x_a: Tensor) -> Tensor:
        """Return x_a, which has no channels."""
        return x_a

    def changed(self, output: Tensor) -> Tensor:
        """Return the whole output."""
        return output
