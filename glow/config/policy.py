"""Options of the policy stage."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from glow.config.fields import require


@dataclass(frozen=True)
class LearnerConfig:
    """Soft actor-critic: its networks, and how they learn."""

    num_layers: int = 2
    """Number of coupling layers in the flow policy. The Gaussian policy has none."""
    hidden_features: int = 64
    """Width of the two hidden layers in each network, of policies and critics."""
    alpha: float = 0.1
    """Entropy temperature at the end: the reward for one nat of entropy. A larger value makes policies more random."""
    first_alpha: float = 0.5
    """Entropy temperature at the start; it falls geometrically to alpha over the first half of the steps. A large value
    keeps a policy from settling on one action while the critics are still wrong."""
    num_steps: int = 1200
    """Number of gradient steps. Before each of them, every environment makes one step."""
    num_random_steps: int = 40
    """Steps with uniformly random actions that every environment makes before the first gradient step."""
    num_environments: int = 32
    """Number of environments that run side by side."""
    batch_size: int = 256
    """Transitions in one gradient step, drawn at random from all transitions so far."""
    lr: float = 3e-3
    """Learning rate of Adam, for policy and critics. It falls linearly to 0 over the last quarter of the steps."""
    target_rate: float = 0.02
    """How fast the target critics follow the critics: the fraction of the difference that they move at each step."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.num_layers >= 1, "learner.num_layers", self.num_layers, "give 1 or more")
        for name in ("hidden_features", "num_steps", "num_random_steps", "num_environments", "batch_size"):
            require(getattr(self, name) >= 1, f"learner.{name}", getattr(self, name), "give 1 or more")
        for name in ("alpha", "first_alpha", "lr"):
            value = getattr(self, name)
            require(0 < value < float("inf"), f"learner.{name}", value, "give a finite number above 0")
        require(0 < self.target_rate <= 1, "learner.target_rate", self.target_rate, "give a number above 0, at most 1")


@dataclass(frozen=True)
class PolicyRun:
    """Train a flow and a Gaussian as policies by soft actor-critic, and measure how they use two good actions.

    Each of the two tasks has two equally good actions. The same command again goes on with the trainings that have not
    ended.
    """

    output: str
    """Run directory to write, usually runs/NAME."""
    policy: Literal["flow", "gaussian", "both"] = "both"
    """Policies to train: the flow, the Gaussian, or both. Both learn in the same way."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds: one, or a list as in '[0, 1]'. Each seed is a training of its own, with its own weights, noise and
    batches."""
    num_episodes: int = 1000
    """Episodes that measure each policy."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Soft actor-critic."""

    def __post_init__(self) -> None:
        """Check ranges."""
        distinct = len(set(self.seeds)) == len(self.seeds) >= 1 and min(self.seeds) >= 0
        require(distinct, "seeds", self.seeds, "give one or more different numbers, each 0 or more")
        require(self.num_episodes >= 2, "num_episodes", self.num_episodes, "give 2 or more")

    @property
    def policies(self) -> list[str]:
        """The policies to train."""
        return ["gaussian", "flow"] if self.policy == "both" else [self.policy]
