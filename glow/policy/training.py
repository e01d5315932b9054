"""The trainings of a run of policies: each is trained once, and its weights are kept in a folder of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from glow.config import PolicyRun, config_to_dict, flatten
from glow.console import track
from glow.files.writing import write_whole
from glow.policy.environment import ENVIRONMENTS
from glow.policy.exact import BestPolicy
from glow.policy.report import Trained
from glow.policy.soft_actor_critic import SoftActorCritic
from glow.training.metrics import MetricsLog, write_environment

LOG_EVERY = 50
WEIGHTS = "policy.safetensors"


def begin(run: PolicyRun, output: Path) -> None:
    """Write config.yaml and environment.json, if they are not there.

    Raises:
        ValueError: when the directory holds a run with other options.
    """
    path, options = output / "config.yaml", config_to_dict(run)
    if not path.exists():
        write_environment(output, torch.device("cpu"), 1)
        write_whole(path, yaml.safe_dump(options, sort_keys=False))
    earlier, now = (flatten(values) for values in (yaml.safe_load(path.read_text()), options))
    for name, value in now.items():
        if earlier.get(name) != value and name != "output":
            raise ValueError(
                f"{name}: {value}, but the run in {output} started with {earlier.get(name)}; choose another output"
            )


def train_all(run: PolicyRun, output: Path) -> Iterator[Trained]:
    """Train every policy on every task with every seed, or load it if it was trained before; yield each, measured."""
    for task, environment in ENVIRONMENTS.items():
        best = BestPolicy.of(environment(), run.learner.alpha)
        for seed in run.seeds:
            for policy in run.policies:
                num_layers = run.learner.num_layers if policy == "flow" else 0
                agent = SoftActorCritic(environment(), run.learner, num_layers, seed)
                directory = output / f"{task}-{policy}-{seed}"
                if (directory / WEIGHTS).exists():
                    _load(agent, directory / WEIGHTS)
                else:
                    _train(agent, directory)
                yield Trained.of(policy, seed, agent, best, run.num_episodes)


def _train(agent: SoftActorCritic, directory: Path) -> None:
    """Train from the start; write metrics on the way, and the weights at the end."""
    steps = track(agent.learn(), agent.config.num_steps, "step", directory.name)
    with MetricsLog(directory, 0) as log:
        for step, metrics in enumerate(steps, 1):
            if step % LOG_EVERY == 0 or step == agent.config.num_steps:
                log.write(step, metrics)
    partial = directory / f"{WEIGHTS}.partial"
    save_file(_weights(agent), partial)
    partial.replace(directory / WEIGHTS)


def _load(agent: SoftActorCritic, path: Path) -> None:
    """Load the weights that ``_train`` wrote.

    Raises:
        ValueError: when the file is damaged.
    """
    try:
        tensors = load_file(path)
        for name, module in (("policy", agent.policy), ("critics", agent.critics)):
            prefix = f"{name}."
            module.load_state_dict({
                key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)
            })  # fmt: skip
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged; remove it to train this policy again") from error


def _weights(agent: SoftActorCritic) -> dict[str, torch.Tensor]:
    """Return the weights of policy and critics."""
    modules = (("policy", agent.policy), ("critics", agent.critics))
    return {f"{name}.{key}": value for name, module in modules for key, value in module.state_dict().items()}
