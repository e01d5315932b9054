"""Train policies: ``python -m pipelines.policy --config configs/policy.yaml``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tqdm import tqdm

from glow.cli import parse_config, run_stage
from glow.config import PolicyRun, config_to_dict, flatten
from glow.locking import locked
from glow.policy.environment import ENVIRONMENTS
from glow.policy.exact import BestPolicy
from glow.policy.report import Trained, write_report
from glow.policy.soft_actor_critic import SoftActorCritic
from glow.training.metrics import MetricsLog, write_environment

LOG_EVERY = 50
WAYS = {"both": "both ways", "mean": "between", "one": "one way"}
WEIGHTS = "policy.safetensors"


def main(argv: Sequence[str] | None = None) -> Path:
    """Train every policy on every task with every seed, measure and draw them; return the run directory."""
    run = parse_config(PolicyRun, argv, "policy")
    output = Path(run.output)
    with locked(output / ".lock", run.output):
        begin(run, output)
        if (output / "policy.json").exists():
            print(f"{output} is complete already: nothing to do")
        else:
            trained = [one for task in ENVIRONMENTS for one in train_task(task, run, output)]
            describe(write_report(output, run, trained))
    print(output)
    return output


def begin(run: PolicyRun, output: Path) -> None:
    """Write config.yaml and environment.json, if they are not there.

    Raises:
        ValueError: when the directory holds a run with other options.
    """
    path, options = output / "config.yaml", config_to_dict(run)
    if not path.exists():
        write_environment(output, torch.device("cpu"), 1)
        partial = output / "config.yaml.partial"
        partial.write_text(yaml.safe_dump(options, sort_keys=False))
        partial.replace(path)
    earlier, now = (flatten(values) for values in (yaml.safe_load(path.read_text()), options))
    for name, value in now.items():
        if earlier.get(name) != value and name != "output":
            raise ValueError(
                f"{name}: {value}, but the run in {output} was begun with {earlier.get(name)}; choose another output"
            )


def train_task(task: str, run: PolicyRun, output: Path) -> list[Trained]:
    """Train, or load, the policies of one task."""
    best = BestPolicy.of(ENVIRONMENTS[task](), run.learner.alpha)
    trained = []
    for seed in run.seeds:
        for policy in run.policies:
            directory = output / f"{task}-{policy}-{seed}"
            num_layers = run.learner.num_layers if policy == "flow" else 0
            agent = SoftActorCritic(ENVIRONMENTS[task](), run.learner, num_layers, seed)
            if (directory / WEIGHTS).exists():
                load(agent, directory / WEIGHTS)
            else:
                train(agent, directory)
            trained.append(Trained.of(policy, seed, agent, best, run.num_episodes))
    return trained


def train(agent: SoftActorCritic, directory: Path) -> None:
    """Train from the start; write metrics as it goes, and the weights, whole, at the end."""
    steps = tqdm(agent.learn(), directory.name, agent.config.num_steps, unit="step", disable=None)
    with MetricsLog(directory, 0) as log:
        for step, told in enumerate(steps, 1):
            if step % LOG_EVERY == 0 or step == agent.config.num_steps:
                log.write(step, told)
    partial = directory / f"{WEIGHTS}.partial"
    save_file(weights(agent), partial)
    partial.replace(directory / WEIGHTS)


def load(agent: SoftActorCritic, path: Path) -> None:
    """Load what ``train`` wrote.

    Raises:
        ValueError: when the file is damaged.
    """
    try:
        tensors = load_file(path)
        for name, module in (("policy", agent.policy), ("critics", agent.critics)):
            parts = {
                key.removeprefix(f"{name}."): value for key, value in tensors.items() if key.startswith(f"{name}.")
            }
            module.load_state_dict(parts)
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(f"{path}: damaged; remove it to train this policy again") from error


def weights(agent: SoftActorCritic) -> dict[str, torch.Tensor]:
    """Return policy and critics."""
    modules = (("policy", agent.policy), ("critics", agent.critics))
    return {f"{name}.{key}": value for name, module in modules for key, value in module.state_dict().items()}


def describe(told: dict[str, Any]) -> None:
    """Print what the trainings came to."""
    for row in told["summary"]:
        ways = ", ".join(f"{WAYS[what]} {count}" for what, count in row["num_settled_on"].items() if count)
        print(
            f"{row['task']}, {row['policy']}, {row['num_seeds']} seed(s): the first action goes {ways}; medians: "
            f"return {row['median_return']:.3f}, of the first action KL(policy || best) "
            f"{row['median_first_kl_nats']:.3f} nats, share of the rarer way {row['median_rarer_first']:.3f}, between "
            f"{row['median_between_first']:.3f}"
        )


if __name__ == "__main__":
    run_stage(main)
