"""The report on trained policies: figures of each training, a summary, and pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from glow.evaluation.figures import BLUE, GREY, ORANGE, png
from glow.files.writing import write_together
from glow.policy.environment import Environment
from glow.policy.exact import BestPolicy, action_grid, divergence, grid, integrate
from glow.policy.measuring import Episodes, play
from glow.policy.soft_actor_critic import SoftActorCritic

# Of the first actions, the share that goes the rarer way: from KEPT on, both ways are kept (if at most FEW go between);
# below LOST, one way is lost.
KEPT, LOST, FEW = 0.25, 0.05, 0.1
WAYS = {"both": "both ways", "mean": "between", "one": "one way"}
SIDES = ("left", "right")
NUM_SHOWN = 60
RESOLUTION = 120


@dataclass(frozen=True)
class Trained:
    """A policy that was trained, and the episodes that measure it."""

    policy: str
    seed: int
    agent: SoftActorCritic
    best: BestPolicy
    episodes: Episodes

    @staticmethod
    def of(policy: str, seed: int, agent: SoftActorCritic, best: BestPolicy, num_episodes: int) -> Trained:
        """Let the policy play."""
        return Trained(policy, seed, agent, best, play(agent.environment, agent.policy, num_episodes, seed))

    @property
    def environment(self) -> Environment:
        """The task."""
        return self.agent.environment

    def figures(self) -> dict[str, Any]:
        """Return its entry of policy.json; entropies and divergence in nats."""
        episodes = self.episodes
        return {
            "task": self.environment.name,
            "policy": self.policy,
            "seed": self.seed,
            "return": asdict(episodes.total_reward()),
            "reached": episodes.reached_shares(),
            "first_action": episodes.first_shares(),
            "settled_on": settled_on(episodes),
            "entropy_nats": -episodes.log_probs.mean().item(),
            "first_entropy_nats": -episodes.log_probs[0].mean().item(),
            "first_kl_nats": asdict(divergence(self.agent.policy, self.best, seed=self.seed)),
        }


def settled_on(episodes: Episodes) -> str:
    """Return where the first action goes: ``both`` ways, ``one`` way, or the ``mean`` if it often goes between."""
    shares = episodes.first_shares()
    rarer = min(shares["left"], shares["right"])
    if rarer < LOST and shares["between"] <= FEW + LOST:
        return "one"
    return "both" if rarer >= KEPT and shares["between"] <= FEW else "mean"


def summarize(trained: Sequence[Trained]) -> dict[str, Any]:
    """Return the figures of all trainings, and their medians for each task and policy."""
    figures = [one.figures() for one in trained]
    summary = []
    for task, policy in dict.fromkeys((one["task"], one["policy"]) for one in figures):
        group = [one for one in figures if (one["task"], one["policy"]) == (task, policy)]
        summary.append({
            "task": task,
            "policy": policy,
            "num_seeds": len(group),
            "num_settled_on": {what: [one["settled_on"] for one in group].count(what) for what in WAYS},
            "median_rarer_first": median(min(one["first_action"][side] for side in SIDES) for one in group),
            "median_between_first": median(one["first_action"]["between"] for one in group),
            "median_rarer_reached": median(min(one["reached"][side] for side in SIDES) for one in group),
            "median_return": median(one["return"]["mean"] for one in group),
            "median_first_entropy_nats": median(one["first_entropy_nats"] for one in group),
            "median_first_kl_nats": median(one["first_kl_nats"]["mean"] for one in group),
        })  # fmt: skip
    return {"summary": summary, "trainings": figures}


def write_report(output: Path, shown_seed: int, trained: Sequence[Trained]) -> dict[str, Any]:
    """Write the pictures, and then policy.json, which says that all is there; return its content.

    Args:
        output: The run directory.
        shown_seed: The trainings with this seed are those whose densities are drawn.
        trained: All trainings.
    """
    content = summarize(trained)
    pictures = {"trajectories.png": plot_trajectories([one for one in trained if one.environment.horizon > 1])}
    for task in dict.fromkeys(one.environment.name for one in trained):
        group = [one for one in trained if one.environment.name == task and one.seed == shown_seed]
        pictures[f"density-{task}.png"] = plot_densities(group)
    written = {output / name: png(figure, 110) for name, figure in pictures.items()}
    write_together({**written, output / "policy.json": json.dumps(content, indent=1, allow_nan=False) + "\n"})
    return content


def summary_text(content: Mapping[str, Any]) -> str:
    """Return the summary of policy.json as text, a line for each task and policy."""
    lines = []
    for row in content["summary"]:
        ways = ", ".join(f"{WAYS[way]} ({count})" for way, count in row["num_settled_on"].items() if count)
        lines.append(
            f"{row['task']}, {row['policy']}, {row['num_seeds']} seed(s): the first action goes {ways}; medians: "
            f"return {row['median_return']:.3f}; of the first action: KL(policy || best) "
            f"{row['median_first_kl_nats']:.3f} nats, share of the rarer way {row['median_rarer_first']:.3f}, share "
            f"between {row['median_between_first']:.3f}"
        )
    return "\n".join(lines)


def plot_trajectories(trained: Sequence[Trained]) -> Figure:
    """Draw episodes over the reward of each position, and a dot where each first action leads.

    Each policy has a row, each seed a column.
    """
    policies = list(dict.fromkeys(one.policy for one in trained))
    seeds = list(dict.fromkeys(one.seed for one in trained))
    figure = Figure(figsize=(2.6 * len(seeds) + 0.4, 2.0 * len(policies) + 0.4), layout="constrained")
    panels = figure.subplots(len(policies), len(seeds), squeeze=False)
    for one in trained:
        axes = panels[policies.index(one.policy), seeds.index(one.seed)]
        _draw_episodes(axes, one)
        axes.set_title(f"{one.policy}, seed {one.seed}", fontsize=9)
    return figure


def _draw_episodes(axes: Axes, one: Trained) -> None:
    environment, limit = one.environment, one.environment.limit
    positions = grid(limit, RESOLUTION)
    _, reward = environment.step(positions, torch.zeros(2, dtype=torch.float64))
    axes.imshow(reward.numpy(), extent=(-limit, limit, -limit, limit), origin="lower", cmap="Greys", alpha=0.5)
    for path, target in zip(one.episodes.states[:, :NUM_SHOWN].unbind(1), one.episodes.reached.tolist(), strict=False):
        axes.plot(*path.T.numpy(), color=(BLUE, ORANGE, GREY)[target], linewidth=0.5, alpha=0.4)
        axes.plot(*path[1].numpy(), ".", color="black", markersize=2.5, markeredgewidth=0)
    axes.plot(*environment.targets.T.numpy(), "*", color="black", markersize=7)
    axes.plot(0, 0, "o", color="black", markersize=3)
    first = one.episodes.first_shares()
    shares = f"first: {first['left']:.0%} left, {first['between']:.0%} between, {first['right']:.0%} right"
    axes.text(0, -0.85, shares, ha="center", va="center", fontsize=7)
    axes.set(xlim=(-1.4, 1.4), ylim=(-1, 0.7), xticks=[], yticks=[])


def plot_densities(trained: Sequence[Trained]) -> Figure:
    """Draw densities of the first action: of the best policy, and for each policy of its critics and its own."""
    actions = action_grid(RESOLUTION)
    shown = [(r"exact $\exp(Q/\alpha)$", trained[0].best.first_log_prob(actions))]
    for one in trained:
        shown.append((rf"{one.policy}: critic's $\exp(Q/\alpha)$", _critics_log_prob(one, actions)))
        with torch.no_grad():
            state = torch.zeros(len(actions), 2)
            shown.append((f"{one.policy}: policy", one.agent.policy.log_prob(actions.float(), state)))
    highest = float(shown[0][1].exp().max())
    figure = Figure(figsize=(2.2 * len(shown) + 0.8, 2.4), layout="constrained")
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, (title, log_prob) in zip(panels, shown, strict=True):
        density = log_prob.exp().reshape(RESOLUTION, RESOLUTION).numpy()
        # All use the scale of the exact density.
        image = axes.imshow(density, extent=(-1, 1, -1, 1), origin="lower", vmin=0, vmax=highest)
        axes.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
        axes.set_title(title, fontsize=9)
    figure.colorbar(image, ax=list(panels), shrink=0.8)
    return figure


@torch.no_grad()
def _critics_log_prob(one: Trained, actions: Tensor) -> Tensor:
    """Return the log-density proportional to ``exp(Q / alpha)`` in the first state, with Q of the critics."""
    q = one.agent.critics(torch.zeros(len(actions), 2), actions.float()).amin(1).double()
    return (q - integrate(q, one.best.alpha)) / one.best.alpha
