"""Mixture-of-logistics coupling: the elementwise map is the CDF of a mixture."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from glow.bijectors.coupling import Coupling, tanh_log_scale
from glow.bijectors.mask import Mask
from glow.bijectors.root import solve_increasing

MAX_LOG_SCALE = 4.0  # of a component, either sign: float32 cannot resolve sharper components
FIRST_SPREAD = 0.5  # the means start between minus and plus this


class MixtureCoupling(Coupling):
    """``T(x) = (logit F(x) + shift) * exp(a)``, where F is the CDF of a mixture of M logistics and f its density.

    The log-derivative is ``log f(x) - log F(x) - log(1 - F(x)) + a``. F and 1 - F are computed as logarithms, each by
    logsumexp, so both tails stay exact. The inverse brackets the root and finds it by Newton steps. Cost: one call of
    the network, and M exponentials a number; the inverse needs those in every iteration.

    Source: Ho, Chen, Srinivas, Duan & Abbeel 2019 (Flow++, arXiv 1902.00275), section 3.2.
    """

    first_means: Tensor

    def __init__(self, net: nn.Module, mask: Mask | None = None, num_mixtures: int = 8) -> None:
        super().__init__(net, mask)
        self.num_mixtures = num_mixtures
        self.num_parameters = parameters_per_number(num_mixtures)
        # Components that start equal would stay equal. Components far apart would bend the map from the start, and a
        # chain of many such steps could not be inverted in float32.
        spread = FIRST_SPREAD if num_mixtures > 1 else 0.0
        self.register_buffer("first_means", torch.linspace(-spread, spread, num_mixtures))

    def transform(self, x: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return T(x) and its log-derivatives."""
        shift, log_scale, mixture = self._unpack(parameters)
        y, log_derivative = _logit_cdf(x, *mixture)
        return (y + shift) * log_scale.exp(), log_derivative + log_scale

    def inverse_transform(self, z: Tensor, parameters: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inverse of T at z, found by iteration, and its log-derivatives."""
        shift, log_scale, mixture = self._unpack(parameters)
        y = z * (-log_scale).exp() - shift
        # F lies between the CDFs of its components. So x lies between the solutions for single components.
        _, means, log_scales = mixture
        solutions = means + log_scales.exp() * y[:, None]
        x = solve_increasing(lambda x: _logit_cdf(x, *mixture), y, solutions.amin(1), solutions.amax(1))
        return x, -_logit_cdf(x, *mixture)[1] - log_scale

    def _unpack(self, parameters: Tensor) -> tuple[Tensor, Tensor, tuple[Tensor, Tensor, Tensor]]:
        """Return shift and log-scale ``[N, c, ...]``; and log-weights, means, log-scales ``[N, M, c, ...]``."""
        parts = parameters.unflatten(1, (self.num_parameters, -1))  # [N, 2 + 3 M, c, ...]
        shift, h = parts[:, 0], parts[:, 1]  # [N, c, ...] each
        logits, offsets, scales = parts[:, 2:].unflatten(1, (3, self.num_mixtures)).unbind(1)  # [N, M, c, ...] each
        means = offsets + self.first_means.view(-1, *(1,) * (offsets.dim() - 2))
        log_scales = MAX_LOG_SCALE * torch.tanh(scales / MAX_LOG_SCALE)
        return shift, tanh_log_scale(h), (logits.log_softmax(1), means, log_scales)


def parameters_per_number(num_mixtures: int) -> int:
    """Return the number of parameters of T for each number of x_b: shift, scale, and three per component."""
    return 2 + 3 * num_mixtures


def _logit_cdf(x: Tensor, log_weights: Tensor, means: Tensor, log_scales: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``logit F(x)`` and the logarithm of its derivative, ``[N, c, ...]`` each."""
    t = (x[:, None] - means) * (-log_scales).exp()  # [N, M, c, ...]
    log_below, log_above = F.logsigmoid(t), F.logsigmoid(-t)  # [N, M, c, ...] each
    log_cdf = torch.logsumexp(log_weights + log_below, 1)  # [N, c, ...], as the two below
    log_survival = torch.logsumexp(log_weights + log_above, 1)
    log_density = torch.logsumexp(log_weights - log_scales + log_below + log_above, 1)
    return log_cdf - log_survival, log_density - log_cdf - log_survival
