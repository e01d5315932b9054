"""What the policy stage is asked to do."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from glow.config.fields import require


@dataclass(frozen=True)
class LearnerConfig:
    """Soft actor-critic: policy, critics, and how they learn."""

    num_layers: int = 2
    """Couplings of the flow; the Gaussian policy has none."""
    hidden_features: int = 64
    """Width of the two hidden layers of all networks."""
    alpha: float = 0.1
    """Entropy temperature: the worth of one nat of entropy."""
    first_alpha: float = 0.5
    """Temperature at first, which falls geometrically to alpha over the first half of the steps: while the critics know
    little, it keeps a policy from settling on what only seems better."""
    num_steps: int = 1200
    """Gradient steps, after each of which every environment makes one step."""
    num_random_steps: int = 40
    """Environment steps with uniformly random actions before the first gradient step."""
    num_environments: int = 32
    """Episodes that run at the same time."""
    batch_size: int = 256
    """Transitions in a gradient step, drawn of all that there have been."""
    lr: float = 3e-3
    """Learning rate of Adam, for policy and critics; it falls linearly to 0 over the last quarter of the steps."""
    target_rate: float = 0.02
    """Part of the way that the target critics go towards the critics at each step."""

    def __post_init__(self) -> None:
        """Check ranges."""
        require(self.num_layers >= 1, "learner.num_layers", self.num_layers, "1 or more is")
        for name in ("hidden_features", "num_steps", "num_random_steps", "num_environments", "batch_size"):
            require(getattr(self, name) >= 1, f"learner.{name}", getattr(self, name), "1 or more is")
        for name in ("alpha", "first_alpha", "lr"):
            value = getattr(self, name)
            require(0 < value < float("inf"), f"learner.{name}", value, "a finite number above 0 is")
        require(0 < self.target_rate <= 1, "learner.target_rate", self.target_rate, "above 0 up to 1 is")


@dataclass(frozen=True)
class PolicyRun:
    """Train a flow and a Gaussian as policies by soft actor-critic, on two tasks with two equally good actions, and
    measure how they use them. The same command again goes on with the trainings that had not ended.
    """

    output: str
    """Run directory; by custom runs/NAME."""
    policy: Literal["flow", "gaussian", "both"] = "both"
    """Which policies to train; both learn in the same way."""
    seeds: list[int] = field(default_factory=lambda: [0])
    """Seeds of weights, noise and batches, '[0, 1]' or one; each is a training of its own."""
    num_episodes: int = 1000
    """Episodes that measure a policy."""
    learner: LearnerConfig = field(default_factory=LearnerConfig)
    """Soft actor-critic."""

    def __post_init__(self) -> None:
        """Check ranges."""
        distinct = len(set(self.seeds)) == len(self.seeds) >= 1 and min(self.seeds) >= 0
        require(distinct, "seeds", self.seeds, "one or more different numbers of 0 or more are")
        require(self.num_episodes >= 2, "num_episodes", self.num_episodes, "2 or more is")

    @property
    def policies(self) -> list[str]:
        """The policies to train."""
        return ["gaussian", "flow"] if self.policy == "both" else [self.policy]
