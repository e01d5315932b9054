"""The best policy at a temperature, by dynamic programming on a grid; learned policies are compared with it."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from glow.evaluation.likelihood import Estimate
from glow.policy.environment import Environment
from glow.policy.policy import Policy
from glow.randomness import generator

NUM_POSITIONS = 61
NUM_ACTIONS = 16
NUM_QUADRATURE = 300
TOLERANCE = 1e-5


@dataclass(frozen=True)
class BestPolicy:
    """``pi(a | s) = exp((Q(s, a) - V(s)) / alpha)`` with ``V(s) = alpha log integral of exp(Q(s, a) / alpha) da``.

    Attributes:
        environment: The task.
        alpha: Temperature.
        values: V on a square grid of positions, float64 ``[y, x]``, bilinear in between.
    """

    environment: Environment
    alpha: float
    values: Tensor

    @staticmethod
    def of(environment: Environment, alpha: float) -> BestPolicy:
        """Iterate ``Q(s, a) = r + discount V(s')`` until V rises by the same number everywhere.

        Source: Haarnoja, Tang, Abbeel & Levine 2017 (arXiv 1702.08165), theorem 3.
        """
        states, actions = grid(environment.limit, NUM_POSITIONS), action_grid(NUM_ACTIONS)
        moved, reward = environment.step(states.reshape(-1, 1, 2), actions[None])
        values, discount = torch.zeros(NUM_POSITIONS, NUM_POSITIONS, dtype=torch.float64), environment.discount
        while True:
            following = reward + discount * BestPolicy(environment, alpha, values).value(moved)
            rise = integrate(following, alpha).reshape(values.shape) - values
            values = values + rise
            # Without a discount, one iteration is enough. Else the remaining rises form a geometric series.
            if not discount or rise.max() - rise.min() < TOLERANCE:
                return BestPolicy(environment, alpha, values + rise.mean() * discount / (1 - discount))

    def value(self, state: Tensor) -> Tensor:
        """Return V of states ``[A, B, 2]``: ``[A, B]``."""
        where = (state / self.environment.limit)[None]
        return F.grid_sample(self.values[None, None], where, align_corners=True)[0, 0]

    def first_q(self, action: Tensor) -> Tensor:
        """Return Q of actions ``[N, 2]`` in the first state of an episode: ``[N]``, float64."""
        moved, reward = self.environment.step(torch.zeros(1, 2, dtype=torch.float64), action.double())
        return reward + self.environment.discount * self.value(moved[None])[0]

    def first_log_prob(self, action: Tensor) -> Tensor:
        """Return log pi of actions ``[N, 2]`` in the first state: ``[N]``, in nats, float64."""
        log_normalizer = integrate(self.first_q(action_grid(NUM_QUADRATURE)), self.alpha) / self.alpha
        return self.first_q(action) / self.alpha - log_normalizer


def divergence(policy: Policy, best: BestPolicy, num_samples: int = 50_000, seed: int = 0) -> Estimate:
    """Estimate ``KL(policy || best)`` in the first state, in nats, from actions drawn from the policy."""
    noise = generator(seed, "divergence").standard_normal((num_samples, 2), dtype=np.float32)
    with torch.no_grad():
        action, log_prob = policy.sample_and_log_prob(torch.from_numpy(noise), torch.zeros(num_samples, 2))
    return Estimate.of((log_prob - best.first_log_prob(action)).numpy())


def grid(limit: float, count: int) -> Tensor:
    """Return a grid of positions from ``-limit`` to ``limit``, float64 ``[y, x, 2]``."""
    axis = torch.linspace(-limit, limit, count, dtype=torch.float64)
    return torch.stack(torch.meshgrid(axis, axis, indexing="xy"), dim=-1)


def action_grid(count: int) -> Tensor:
    """Return the midpoints of ``count x count`` cells of the action square, float64 ``[count^2, 2]``, row by row."""
    return grid(1 - 1 / count, count).reshape(-1, 2)


def integrate(q: Tensor, alpha: float) -> Tensor:
    """Return ``alpha log integral of exp(q / alpha)`` over the square, from q at the midpoints, ``[..., count^2]``."""
    return alpha * (torch.logsumexp(q / alpha, -1) + math.log(4 / q.shape[-1]))
