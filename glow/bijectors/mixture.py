"""Mixture-of-logistics coupling: a monotone map with as many bends as the mixture has components."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.coupling import Coupling, tanh_log_scale
from glow.bijectors.mask import Mask
from glow.bijectors.root import solve_increasing

MAX_LOG_SCALE = 4.0  # of a component: with sharper ones float32 could not tell neighbouring x apart
FIRST_SPREAD = 0.5


class MixtureCoupling(Coupling):
    """``T(x) = (logit F(x) + shift) * exp(a)``, F the CDF of a mixture of M logistics.

    log-derivative: ``log f(x) - log F(x) - log(1 - F(x)) + a``, f the density of the mixture. F and 1 - F are kept as
    logarithms, each summed by logsumexp, so that neither tail is lost. The inverse brackets the root and closes in on
    it by Newton steps. Cost: one network; M exponentials a number, and in the inverse that for each iteration.

    Source: Ho, Chen, Srinivas, Duan & Abbeel 2019 (Flow++, arXiv 1902.00275), section 3.2.
    """

    first_means: Tensor

    def __init__(self, net: nn.Module, mask: Mask | None = None, num_mixtures: int = 8) -> None:
        super().__init__(net, mask)
        self.num_mixtures = num_mixtures
        self.num_parameters = parameters_per_number(num_mixtures)
        # Components that all begin alike would stay alike; far apart, they would bend the map from the start, and many
        # such steps one after the other could not be inverted in float32.
        spread = FIRST_SPREAD if num_mixtures > 1 else 0.0
        self.register_buffer("first_means", torch.linspace(-spread, spread, num_mixtures))

    def transform(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Take the logit of the mixture's CDF, shift and scale."""
        shift, log_scale, mixture = self._unpack(parameters)
        y, log_derivative = _logit_cdf(x, *mixture)
        return (y + shift) * log_scale.exp(), log_derivative + log_scale

    def inverse_transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and shift back, and solve for the argument of the CDF."""
        shift, log_scale, mixture = self._unpack(parameters)
        y = z * (-log_scale).exp() - shift
        # F lies between the CDFs of its components, so that x lies between their solutions.
        _, means, log_scales = mixture
        solutions = means + log_scales.exp() * y[:, None]
        x = solve_increasing(lambda x: _logit_cdf(x, *mixture), y, solutions.amin(1), solutions.amax(1))
        return x, -_logit_cdf(x, *mixture)[1] - log_scale

    def _unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return shift and log-scale ``[N, c, ...]``; and log-weights, means, log-scales ``[N, M, c, ...]``."""
        parts = parameters.unflatten(1, (self.num_parameters, -1))
        shift, h = parts[:, 0], parts[:, 1]
        logits, offsets, scales = parts[:, 2:].unflatten(1, (3, self.num_mixtures)).unbind(1)
        means = offsets + self.first_means.view(-1, *(1,) * (offsets.dim() - 2))
        log_scales = MAX_LOG_SCALE * torch.tanh(scales / MAX_LOG_SCALE)
        return shift, tanh_log_scale(h), (logits.log_softmax(1), means, log_scales)


def parameters_per_number(num_mixtures: int) -> int:
    """Return how many parameters the map has for each number: shift, scale, and three for each component."""
    return 2 + 3 * num_mixtures


def _logit_cdf(x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``logit F(x)`` and the logarithm of its derivative."""
    t = (x[:, None] - means) * (-log_scales).exp()
    log_below, log_above = F.logsigmoid(t), F.logsigmoid(-t)
    log_cdf = torch.logsumexp(log_weights + log_below, 1)
    log_survival = torch.logsumexp(log_weights + log_above, 1)
    log_density = torch.logsumexp(log_weights - log_scales + log_below + log_above, 1)
    return log_cdf - log_survival, log_density - log_cdf - log_survival
