"""A stochastic policy: the density of an action given the state, as a conditional flow."""

from __future__ import annotations

from torch import Tensor

from glow.bijectors.base import Bijector, Inverse
from glow.bijectors.coupling import AffineCoupling
from glow.bijectors.mask import EmptyMask
from glow.bijectors.squash import Squash
from glow.config import FlowConfig
from glow.models.flow import DiagonalGaussian, Flow, vector_coupling
from glow.networks.mlp import MLP
from glow.policy.environment import ACTION_DIMS, STATE_DIMS


class Policy(Flow):
    """``action = tanh(mean(state) + exp(log_scale(state)) w)``; conditional couplings map Gaussian noise to w.

    Actions ``[N, 2]`` lie in the open square from -1 to 1; the context is the states ``[N, 2]``. Without couplings, w
    is the noise itself, and the policy is the usual Gaussian one of soft actor-critic.

    Args:
        num_layers: Number of couplings.
        hidden_features: Width of all networks.

    Source: Haarnoja, Zhou, Abbeel & Levine 2018 (arXiv 1801.01290), appendix C, for the Gaussian; Ward, Smofsky & Bose
    2019 (arXiv 1906.02771) for flows.
    """

    def __init__(self, num_layers: int, hidden_features: int) -> None:
        flow = FlowConfig(ACTION_DIMS, "mixture", hidden_channels=hidden_features)
        affine = MLP(0, hidden_features, 2 * ACTION_DIMS, context_features=STATE_DIMS)
        bijectors: list[Bijector] = [Squash(), AffineCoupling(affine, EmptyMask(), scale="exp")]
        for index in range(num_layers):
            # Inverted, so that samples need no root finding.
            bijectors.append(Inverse(vector_coupling(ACTION_DIMS, index % 2, flow, context_features=STATE_DIMS)))
        super().__init__(DiagonalGaussian(ACTION_DIMS), bijectors)

    def _check(self, what: str, x: Tensor, context: Tensor | None) -> None:
        what = {"data": "actions"}.get(what, what)
        super()._check(what, x, context)
        if context is None:
            raise ValueError("a policy needs the states, [N, 2], as context")
        for name, values in ((what, x), ("states", context)):
            wrong = int((~values.isfinite()).any(1).sum())
            if wrong:
                raise ValueError(f"{wrong} of {len(values)} {name} have NaN or infinite numbers")
        if what == "actions" and (x.abs() >= 1).any():
            outside = int((x.abs() >= 1).any(1).sum())
            raise ValueError(f"{outside} of {len(x)} actions are not inside the square from -1 to 1")
