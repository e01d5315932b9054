"""The objective of variational inference: the evidence lower bound of a flow and a target."""

from __future__ import annotations

from torch import Tensor, nn

from glow.inference.targets import Target
from glow.models.flow import Flow


class Elbo(nn.Module):
    """One sample of the evidence lower bound: ``beta log target(x) - log q(x)``.

    q is the density of the flow, x its sample for the noise. With beta = 1 the mean over standard normal noise is ``log
    Z - KL(q || target / Z)``, where Z is the integral of the target.

    Source: Rezende & Mohamed 2015 (arXiv 1505.05770), equations 15 and 20.
    """

    def __init__(self, flow: Flow, target: Target) -> None:
        super().__init__()
        self.flow = flow
        self.target = target
        self.num_dims = flow.num_dims

    def forward(self, noise: Tensor, beta: Tensor) -> Tensor:
        """Return the samples of the bound ``[N]``, in nats, for noise ``[N, D]`` and beta ``[N]``."""
        x, log_prob = self.flow.sample_and_log_prob(noise)
        return beta * self.target(x) - log_prob

    def initialize(self, noise: Tensor, beta: Tensor) -> None:
        """Set all ActNorms from noise ``[N, D]`` (a collective), and check the target on samples of the flow.

        Raises:
            ValueError: in the cases of ``Target.check``.
        """
        self.flow.initialize(noise)
        self.target.check(self.flow.sample(noise))
