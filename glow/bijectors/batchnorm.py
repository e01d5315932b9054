"""Batch normalisation as a bijector."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from glow.bijectors.base import Bijector


class BatchNorm(Bijector):
    """``z = (x - mean) / sqrt(variance + epsilon) * exp(log_scale) + bias``; x is ``[N, C, ...]``.

    logdet ``H W sum(log_scale - log(variance + epsilon) / 2)``.

    In training mode, ``forward`` takes mean and variance from the batch. Gradients go through them, and the running
    averages follow them. Then the examples of a batch *depend on each other*, and the log-density is not comparable
    with others. In eval mode, mean and variance are the running averages. ``inverse`` always uses those, so it inverts
    ``forward`` in eval mode only. Each process and each microbatch normalises its own part of the global batch.

    Source: Dinh, Sohl-Dickstein & Bengio 2017 (Real NVP, arXiv 1605.08803), section 3.7 and appendix E; scale and bias
    as in Papamakarios, Pavlakou & Murray 2017 (MAF, arXiv 1705.07057), section 3.4.
    """

    running_mean: Tensor
    running_variance: Tensor

    def __init__(self, num_channels: int, momentum: float = 0.1, epsilon: float = 1e-5) -> None:
        super().__init__()
        self.momentum = momentum
        self.epsilon = epsilon
        self.log_scale = nn.Parameter(torch.zeros(num_channels))
        self.bias = nn.Parameter(torch.zeros(num_channels))
        self.register_buffer("running_mean", torch.zeros(num_channels))
        self.register_buffer("running_variance", torch.ones(num_channels))

    def forward(self, x: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map data to latents.

        Raises:
            ValueError: in training mode, when a batch has a single number per channel.
        """
        mean, variance = self._batch_statistics(x) if self.training else (self.running_mean, self.running_variance)
        log_scale = self.log_scale - 0.5 * (variance + self.epsilon).log()
        z = (x - _broadcast(mean, x)) * _broadcast(log_scale.exp(), x) + _broadcast(self.bias, x)
        return z, _logdet(log_scale, x)

    def inverse(self, z: Tensor, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Map latents to data, by the running averages."""
        log_scale = self.log_scale - 0.5 * (self.running_variance + self.epsilon).log()
        x = (z - _broadcast(self.bias, z)) * _broadcast((-log_scale).exp(), z) + _broadcast(self.running_mean, z)
        return x, -_logdet(log_scale, z)

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of each channel, and update the running averages."""
        values = x.transpose(0, 1).flatten(1)
        if values.shape[1] < 2:
            raise ValueError("batch normalisation needs two or more examples in training mode")
        variance, mean = torch.var_mean(values, dim=1, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_variance.lerp_(variance, self.momentum)
        return mean, variance


def _broadcast(values: Tensor, x: Tensor) -> Tensor:
    return values.view(1, -1, *(1,) * (x.dim() - 2))


def _logdet(log_scale: Tensor, x: Tensor) -> Tensor:
    return (log_scale.sum() * math.prod(x.shape[2:])).expand(len(x))
