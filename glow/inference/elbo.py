"""The objective of variational inference: the evidence lower bound of a flow, given a target."""

from __future__ import annotations

from torch import Tensor, nn

from glow.inference.targets import Target
from glow.models.flow import Flow


class Elbo(nn.Module):
    """The integrand of the evidence lower bound; its mean over standard normal noise is the bound.

    ``beta log target(x) - log q(x)`` where q is the density of the flow and x its sample of the noise. For beta = 1 the
    mean is ``log Z - KL(q || target / Z)``, with Z the integral of the target.

    Source: Rezende & Mohamed 2015 (arXiv 1505.05770), equations 15 and 20.
    """

    def __init__(self, flow: Flow, target: Target) -> None:
        super().__init__()
        self.flow = flow
        self.target = target
        self.num_dims = flow.num_dims

    def forward(self, noise: Tensor, beta: Tensor) -> Tensor:
        """Return the integrand ``[N]``, in nats, for noise ``[N, D]`` and beta ``[N]``."""
        x, log_prob = self.flow.sample_and_log_prob(noise)
        return beta * self.target(x) - log_prob

    def initialize(self, noise: Tensor, beta: Tensor) -> None:
        """Set all ActNorms so that noise ``[N, D]`` keeps its mean and scale, and try the target (a collective).

        Raises:
            ValueError: when the target is of no use.
        """
        self.flow.initialize(noise)
        self.target.check(self.flow.sample(noise))
