"""ActNorm: a scale and a bias for each channel, set from data once, then learned."""

from __future__ import annotations

import math
import warnings
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
        self.pending_name: str | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the layer is initialised and does not wait for data."""
        return self.is_initialized and self.pending_name is None

    def begin_initialization(self, name: str) -> None:
        """Let the next batch set bias and scale. A warning calls the layer ``name``."""
        self.pending_name = name

    def normalize(self, x: Tensor) -> Tensor:
        """Return z without the log-determinant. While the layer waits for data, set bias and scale first."""
        if self.pending_name is not None:
            self._initialize(x, self.pending_name)
            self.pending_name = None
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
    def _initialize(self, x: Tensor, name: str) -> None:
        dims = [dim for dim in range(x.dim()) if dim != 1]
        count = _all_sum(torch.full((), x.numel() // x.shape[1], dtype=torch.float64, device=x.device))
        mean = _all_sum(x.sum(dims, dtype=torch.float64)) / count
        deviation = x - mean.to(x.dtype).view((1, -1) + (1,) * (x.dim() - 2))
        variance = _all_sum(deviation.square_().sum(dims, dtype=torch.float64)) / count
        std = variance.sqrt()
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


@torch.no_grad()
def initialize_actnorms(model: nn.Module, *inputs: Tensor | None) -> None:
    """Set every ActNorm of a model from data: call ``model(*inputs)`` once.

    Each ActNorm is set when the data reaches it. This is a collective: N processes set what one process would set from
    all their batches. A channel of constant input keeps scale 1, with a warning.
    """
    actnorms = {name: module for name, module in model.named_modules() if isinstance(module, ActNorm)}
    for name, actnorm in actnorms.items():
        actnorm.begin_initialization(name)
    try:
        model(*inputs)
    finally:
        for actnorm in actnorms.values():
            actnorm.pending_name = None


def _all_sum(values: Tensor) -> Tensor:
    """Sum over all processes (a collective), or return ``values`` where there is only one."""
    values = values.clone()
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(values)
    return values
