"""Measure a policy: play episodes, and see which target they reach and where the first action goes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glow.evaluation.likelihood import Estimate
from glow.policy.environment import Environment, distances
from glow.policy.policy import Policy
from glow.randomness import generator

REACHED = 0.3  # distance from a target at the end of an episode
BETWEEN = 0.2  # first actions with a smaller step to either side go between both ways; the best policy has few of them


@dataclass(frozen=True)
class Episodes:
    """Episodes of a policy.

    Attributes:
        states: ``[horizon + 1, N, 2]``, including the last states.
        actions: ``[horizon, N, 2]``.
        rewards: ``[horizon, N]``.
        log_probs: Log-densities of the actions, in nats, ``[horizon, N]``.
        reached: Number of the target that the last state is near, or -1, ``[N]``.
    """

    states: Tensor
    actions: Tensor
    rewards: Tensor
    log_probs: Tensor
    reached: Tensor

    def total_reward(self) -> Estimate:
        """Return the mean return, without discount."""
        return Estimate.of(self.rewards.sum(0).numpy())

    def reached_shares(self) -> dict[str, float]:
        """Return the shares of episodes that end at the left target, at the right one, and at neither."""
        return {side: _share(self.reached == target) for side, target in (("left", 0), ("right", 1), ("neither", -1))}

    def first_shares(self) -> dict[str, float]:
        """Return the shares of first actions that go left, right, and between."""
        sideways = self.actions[0, :, 0]
        shares = {"left": _share(sideways < -BETWEEN), "right": _share(sideways > BETWEEN)}
        return shares | {"between": _share(sideways.abs() <= BETWEEN)}


def _share(is_so: Tensor) -> float:
    return is_so.double().mean().item()


@torch.no_grad()
def play(environment: Environment, policy: Policy, count: int, seed: int) -> Episodes:
    """Let a policy act in ``count`` episodes, with noise that depends on the seed."""
    rng = generator(seed, "episodes")
    states = [torch.zeros(count, 2)]
    steps: list[tuple[Tensor, Tensor, Tensor]] = []
    for _ in range(environment.horizon):
        noise = torch.from_numpy(rng.standard_normal((count, 2), dtype=np.float32))
        action, log_prob = policy.sample_and_log_prob(noise, states[-1])
        state, reward = environment.step(states[-1], action)
        states.append(state)
        steps.append((action, reward, log_prob))
    nearest = distances(states[-1], environment.targets).min(-1)
    reached = torch.where(nearest.values < REACHED, nearest.indices, -1)
    actions, rewards, log_probs = (torch.stack(values) for values in zip(*steps, strict=True))
    return Episodes(torch.stack(states), actions, rewards, log_probs, reached)
