"""ActNorm: a scale and a bias for each channel, set from data once, then learned."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from glow.bijectors.base import Bijector


class ActNorm(Bijector):
    r"""Normalise each channel: ``z = (x + bias) * exp(log_scale)``, logdet ``H W sum(log_scale)``.

    ``x`` is ``[N, C, ...]``. ``initialize_actnorms`` sets bias and scale from data, so that z has mean 0 and variance 1
    in every channel; before that, or a checkpoint, using the layer is an error.

    Raises:
        RuntimeError: in ``forward`` and ``inverse``, before the initialisation.

    Source: Kingma & Dhariwal 2018, section 3.1.
    """

    initialized: Tensor

    def __init__(self, num_channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.log_scale = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("initialized", torch.zeros((), dtype=torch.bool))
        # The buffer goes into checkpoints. This copy of it can be read in every forward without a device sync.
        self.is_initialized = False
        self._receive: Callable[[Tensor], None] | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the layer is initialised and does not wait for data."""
        return self.is_initialized and self._receive is None

    def await_data(self, receive: Callable[[Tensor], None] | None) -> None:
        """Call ``receive`` with each input before it is normalised, to set bias and scale; None: no longer."""
        self._receive = receive

    def normalize(self, x: Tensor) -> Tensor:
        """Return z without the log-determinant."""
        if self._receive is not None:
            self._receive(x)
        self.check()
        bias, log_scale = self._broadcast(x)
        return (x + bias) * log_scale.exp()

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents."""
        return self.normalize(x), self.logdet(x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data."""
        self.check()
        bias, log_scale = self._broadcast(z)
        return z * (-log_scale).exp() - bias, -self.logdet(z)

    def logdet(self, x: Tensor) -> Tensor:
        """Return the log-determinant ``[N]`` for an x of this shape."""
        return (self.log_scale.sum() * math.prod(x.shape[2:])).expand(len(x))

    def _broadcast(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return self.bias.view(shape), self.log_scale.view(shape)

    def check(self) -> None:
        """Raise a RuntimeError before the initialisation."""
        if not self.is_initialized:
            raise RuntimeError("ActNorm is used before its initialisation: call initialize, or load a checkpoint")

    @torch.no_grad()
    def initialize(self, inputs: Callable[[], Iterable[Tensor]], name: str) -> None:
        """Set bias and scale, so that the mean of z is 0 and its variance 1 (a collective: over all processes).

        Args:
            inputs: Gives the parts of a batch, each ``[N, C, ...]``. It is called twice.
            name: What a warning of constant input calls the layer.
        """
        total, count = torch.zeros_like(self.bias, dtype=torch.float64), 0
        for x in inputs():
            total += x.sum(_all_but_channels(x), dtype=torch.float64)
            count += x.numel() // x.shape[1]
        count_of_all = all_sum(torch.full((), count, dtype=torch.float64, device=total.device))
        mean = all_sum(total) / count_of_all
        squares = torch.zeros_like(total)
        for x in inputs():
            deviation = x - mean.to(x.dtype).view((1, -1) + (1,) * (x.dim() - 2))
            squares += deviation.square_().sum(_all_but_channels(x), dtype=torch.float64)
        std = (all_sum(squares) / count_of_all).sqrt()
        constant = std <= 1e-6 * mean.abs().clamp(min=1)
        if constant.any():
            channels = ", ".join(str(i) for i in constant.nonzero().flatten().tolist()[:8])
            warnings.warn(f"{name}: constant input in channel {channels}; its scale stays 1", stacklevel=2)
        self.bias.copy_(-mean)
        self.log_scale.copy_(torch.where(constant, torch.zeros_like(std), -std.log()))
        self.initialized.fill_(True)
        self.is_initialized = True

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *args: Any) -> None:
        super()._load_from_state_dict(state_dict, prefix, *args)
        if f"{prefix}initialized" in state_dict:
            self.is_initialized = bool(state_dict[f"{prefix}initialized"])


def _all_but_channels(x: Tensor) -> list[int]:
    return [dim for dim in range(x.dim()) if dim != 1]


def all_sum(values: Tensor) -> Tensor:
    """Sum over all processes (a collective), or return ``values`` where there is only one."""
    values = values.clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
