"""Soft actor-critic: a policy that maximises reward plus alpha times its entropy."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from glow.config import LearnerConfig
from glow.networks.mlp import MLP
from glow.policy.environment import ACTION_DIMS, STATE_DIMS, Environment
from glow.policy.policy import Policy
from glow.randomness import generator
from glow.training.diagnosis import TrainingDiverged

# SiLU is nearly a parabola from -1 to 1. Without the scale, critics would stay nearly parabolas for long.
INPUT_SCALE = 3.0


class Critics(nn.Module):
    """Two networks for Q(state, action); the lower value counts, which prevents estimates that are too high.

    Source: Fujimoto, van Hoof & Meger 2018 (arXiv 1802.09477), section 4.2.
    """

    def __init__(self, hidden_features: int) -> None:
        super().__init__()
        sizes = (ACTION_DIMS, hidden_features, 1)
        self.networks = nn.ModuleList(MLP(*sizes, context_features=STATE_DIMS) for _ in range(2))

    def forward(self, state: Tensor, action: Tensor) -> Tensor:
        """Return both values of ``[N, 2]`` and ``[N, 2]``: ``[N, 2]``."""
        inputs = (INPUT_SCALE * action, INPUT_SCALE * state)
        return torch.cat([network(*inputs) for network in self.networks], dim=1)


class ReplayBuffer:
    """All transitions so far: state, action, reward, next state."""

    def __init__(self, capacity: int) -> None:
        widths = (STATE_DIMS, ACTION_DIMS, 1, STATE_DIMS)
        self.columns = [torch.zeros(capacity, width) for width in widths]
        self.size = 0

    def add(self, *transitions: Tensor) -> None:
        """Append N transitions, each part ``[N, width]``."""
        rows = slice(self.size, self.size + len(transitions[0]))
        for column, part in zip(self.columns, transitions, strict=True):
            column[rows] = part
        self.size = rows.stop

    def draw(self, count: int, rng: np.random.Generator) -> list[Tensor]:
        """Return ``count`` transitions, drawn with replacement."""
        rows = torch.from_numpy(rng.integers(self.size, size=count))
        return [column[rows] for column in self.columns]


class SoftActorCritic:
    """Policy and critics of an environment, which learn from each other.

    The critics learn ``Q(s, a) = r + discount E[Q'(s', a') - alpha log pi(a' | s')]``. Q' is the lower of two targets,
    which follow the critics slowly. The policy minimises ``E[alpha log pi(a | s) - Q(s, a)]``: alpha times its
    divergence from the density proportional to ``exp(Q / alpha)``. Actions are differentiable functions of noise, and
    their log-probabilities are exact. Everything depends on the seed alone; the first critics are the same for any
    policy.

    Args:
        environment: The task.
        config: Options of the learning.
        num_layers: Couplings of the policy; 0: a Gaussian.
        seed: Seed of weights, noise and batches.

    Source: Haarnoja, Zhou, Hartikainen et al. 2018 (arXiv 1812.05905), sections 4 and 5, with a fixed temperature.
    """

    def __init__(self, environment: Environment, config: LearnerConfig, num_layers: int, seed: int) -> None:
        self.environment, self.config = environment, config
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.critics = Critics(config.hidden_features)
            self.policy = Policy(num_layers, config.hidden_features)
        self.targets = copy.deepcopy(self.critics).requires_grad_(False)
        models = (self.critics, self.policy)
        self._optimizers = [torch.optim.Adam(model.parameters(), config.lr, fused=True) for model in models]
        self._rng = generator(seed, "soft actor-critic", environment.name)
        self._buffer = ReplayBuffer((config.num_random_steps + config.num_steps) * config.num_environments)
        self._state = torch.zeros(config.num_environments, STATE_DIMS)
        self._num_interactions = 0
        self._returns = torch.zeros(config.num_environments)
        self._last_return: float | None = None

    def learn(self) -> Iterator[dict[str, float]]:
        """Make all gradient steps, with an environment step before each; yield the metrics of each.

        Raises:
            TrainingDiverged: when a loss is not finite.
        """
        for _ in range(self.config.num_random_steps):
            self._interact(is_random=True)
        for step in range(1, self.config.num_steps + 1):
            self._set_rates((step - 1) / self.config.num_steps)
            self._interact(is_random=False)
            state, action, reward, following = self._buffer.draw(self.config.batch_size, self._rng)
            critic_loss = self._improve_critics(state, action, reward, following)
            policy_loss, entropy = self._improve_policy(state)
            losses = {"critic": critic_loss.item(), "policy": policy_loss.item()}
            for name, loss in losses.items():
                if not np.isfinite(loss):
                    raise TrainingDiverged(f"step {step} of {self.environment.name}: the loss of the {name} is {loss}")
            returns = {} if self._last_return is None else {"return": self._last_return}
            yield returns | {f"loss/{name}": loss for name, loss in losses.items()} | {"entropy_nats": entropy.item()}

    def _set_rates(self, progress: float) -> None:
        """Set temperature and learning rate; ``progress`` is the share of the steps that were made."""
        config = self.config
        self._alpha = config.alpha * (config.first_alpha / config.alpha) ** max(0.0, 1 - 2 * progress)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.lr * min(1.0, 4 * (1 - progress))

    def noise(self, count: int) -> Tensor:
        """Draw standard normal noise for ``count`` actions."""
        return torch.from_numpy(self._rng.standard_normal((count, ACTION_DIMS), dtype=np.float32))

    @torch.no_grad()
    def _interact(self, is_random: bool) -> None:
        """Make a step in every environment; begin new episodes when they end."""
        count = len(self._state)
        if is_random:
            action = torch.from_numpy(self._rng.uniform(-1, 1, (count, ACTION_DIMS)).astype(np.float32))
        else:
            action = self.policy.sample(self.noise(count), self._state)
        following, reward = self.environment.step(self._state, action)
        self._buffer.add(self._state, action, reward[:, None], following)
        self._state = following
        self._returns += reward
        self._num_interactions += 1
        if self._num_interactions % self.environment.horizon == 0:
            self._last_return = self._returns.mean().item()
            self._state, self._returns = torch.zeros_like(self._state), torch.zeros_like(self._returns)

    def _improve_critics(self, state: Tensor, action: Tensor, reward: Tensor, following: Tensor) -> Tensor:
        config = self.config
        with torch.no_grad():
            next_action, log_prob = self.policy.sample_and_log_prob(self.noise(len(state)), following)
            value = self.targets(following, next_action).amin(1) - self._alpha * log_prob
            target = reward[:, 0] + self.environment.discount * value
        loss = (self.critics(state, action) - target[:, None]).square().mean()
        self._optimizers[0].zero_grad()
        loss.backward()
        self._optimizers[0].step()
        torch._foreach_lerp_(list(self.targets.parameters()), list(self.critics.parameters()), config.target_rate)
        return loss

    def _improve_policy(self, state: Tensor) -> tuple[Tensor, Tensor]:
        """Make a step; return the loss and the entropy, in nats, from before it."""
        action, log_prob = self.policy.sample_and_log_prob(self.noise(len(state)), state)
        loss = (self._alpha * log_prob - self.critics(state, action).amin(1)).mean()
        self._optimizers[1].zero_grad()
        # The critics get gradients too; their own step clears them.
        loss.backward()
        self._optimizers[1].step()
        return loss, -log_prob.mean()
