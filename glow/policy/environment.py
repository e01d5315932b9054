"""Tasks with two equally good actions: a point moves in a plane that is symmetric, left and right."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor


class Environment(Protocol):
    """A Markov decision process: the state is a point of the plane, the action one of the square from -1 to 1.

    Attributes:
        name: Name of the task.
        horizon: Steps of an episode, which begins at the origin.
        discount: Weight of a reward that comes one step later. The task itself has no end; only episodes end.
        limit: Positions go from ``-limit`` to ``limit`` in both directions.
        targets: Two equally good positions, ``[2, 2]``, left and right.
    """

    name: str
    horizon: int
    discount: float
    limit: float
    targets: Tensor

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return the next state ``[..., 2]`` and the reward ``[...]`` of actions ``[..., 2]``, which broadcast."""


STATE_DIMS = ACTION_DIMS = 2


class TwoGoals:
    """A point that starts in the middle between two goals, left and right.

    ``next = state + 0.3 action``. The reward is minus the distance to the nearer goal, minus ``|action|^2``: fast moves
    are expensive, so that the best actions lie inside the square.

    Source: after the multi-goal task of Haarnoja, Tang, Abbeel & Levine 2017 (arXiv 1702.08165), section 5.1.
    """

    name = "goals"
    horizon = 15
    discount = 0.9
    limit = 1.5
    targets = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Move; return position and reward."""
        moved = (state + 0.3 * action).clamp(-self.limit, self.limit)
        return moved, -distances(moved, self.targets).amin(-1) - action.square().sum(-1)


class TwoPeaks:
    """A single decision (a bandit): the point jumps to the action, and the reward has two equal peaks.

    The reward is ``-4 |action - target|^2`` for the nearer target.
    """

    name = "bandit"
    horizon = 1
    discount = 0.0
    limit = 1.0
    targets = torch.tensor([[-0.5, 0.0], [0.5, 0.0]])

    def step(self, state: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Jump; return position and reward."""
        moved = action.expand(torch.broadcast_shapes(state.shape, action.shape))
        return moved, -4 * distances(moved, self.targets).amin(-1).square()


ENVIRONMENTS: Mapping[str, Callable[[], Environment]] = {"goals": TwoGoals, "bandit": TwoPeaks}


def distances(position: Tensor, targets: Tensor) -> Tensor:
    """Return the distance of each position ``[..., 2]`` from each target: ``[..., number of targets]``."""
    return (position[..., None, :] - targets.to(position)).norm(dim=-1)
