"""Train a flow on your own 2-D points: ``python examples/train_points.py 1000 points.npy`` (steps, file).

Without a file the points are two spirals. Writes points.png: the points, and samples of the flow.
"""

from __future__ import annotations

import sys

import numpy as np
import torch

from glow import FlowConfig, TrainedFlow, build_flow
from glow.evaluation.vectors import plot_points


def spirals(count: int = 4000) -> np.ndarray:
    """Return noisy points on two spirals, ``[count, 2]``."""
    rng = np.random.default_rng(0)
    angle = np.pi * (0.5 + 1.5 * rng.random(count))
    arm = np.where(np.arange(count) % 2, 1, -1)
    points = arm * angle / 3 * np.stack([np.cos(angle), np.sin(angle)])
    return points.T + 0.08 * rng.standard_normal((count, 2))


def main(num_steps: int = 1000, file: str | None = None) -> None:
    """Train, and draw."""
    torch.manual_seed(0)
    points = torch.as_tensor(np.load(file) if file else spirals()).float()
    flow = build_flow(FlowConfig(num_dims=2, kind="mixture", num_layers=8, normalization="actnorm", linear=True))
    flow.initialize(points)  # ActNorm takes its mean and scale from the data
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.01, total_steps=num_steps)
    for step in range(num_steps):
        loss = -flow(points[torch.randint(len(points), (256,))]).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(flow.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 0:
            print(f"step {step}: {loss:.3f} nats")
    model = TrainedFlow(flow)
    print(f"mean log p(x) of the points: {model.log_prob(points).mean():.3f} nats")
    plot_points(points.numpy(), model.sample(4000).numpy()).savefig("points.png", dpi=100)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:2]), *sys.argv[2:])
