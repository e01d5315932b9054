"""Fit a flow to a log-density: ``python -m pipelines.infer --config configs/infer_energy.yaml --target.name u1``."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from glow.cli import parse_config, run_stage
from glow.config import InferRun
from glow.console import track
from glow.evaluation.figures import png
from glow.execution.precision import use_exact_float32
from glow.files.writing import write_together
from glow.inference.pictures import plot_posterior
from glow.inference.posterior import Draws, describe, draw, noise_batches
from glow.inference.targets import Target
from glow.sampling.files import npy
from glow.training.checkpoints.manager import find_checkpoint
from glow.training.checkpoints.models import load_flow
from glow.training.checkpoints.reading import read_state
from glow.training.stop import StopRequest
from glow.training.tasks.target import TargetTask
from pipelines.train import train


def main(argv: Sequence[str] | None = None) -> Path | None:
    """Train, or go on training, up to ``train.num_steps``; then report on the fit and return where.

    Returns:
        The directory of the report; None when training was stopped early, and on processes that do not write it.
    """
    config = parse_config(InferRun, argv, "infer")
    task = TargetTask(config.training)
    with StopRequest(task.run.output, task.run.time_limit) as stop:
        train(task, stop)
    checkpoint = find_checkpoint(task.run.output)
    is_finished = read_state(checkpoint).step >= task.run.train.num_steps
    if not is_finished or int(os.environ.get("RANK", "0")) > 0:
        return None
    return report(checkpoint, task.target, config)


def report(checkpoint: Path, target: Target, config: InferRun) -> Path:
    """Write posterior.json, samples.npy and a picture of the fit; return their directory."""
    use_exact_float32()
    step = read_state(checkpoint).step
    output = Path(config.output) / "posterior" / f"step-{step:08d}"
    device = "cuda" if torch.cuda.is_available() else "cpu"
    flow, target = load_flow(checkpoint).to(device), target.to(device)
    batches = list(noise_batches(target.num_dims, config.num_samples, config.train.seed))
    draws = draw(flow, target, track(batches, len(batches), "batch"))
    described = {
        "checkpoint": {"path": str(checkpoint), "step": step},
        "weights": "ema",
        "seed": config.train.seed,
        "num_samples": config.num_samples,
        "dtype": "float64",
        **describe(draws, target),
    }
    write_together({
        output / "samples.npy": npy(draws.samples.astype(np.float32)),
        output / "posterior.png": png(plot_posterior(draws, flow, target)),
        output / "posterior.json": json.dumps(described, indent=1, allow_nan=False) + "\n",
    })  # fmt: skip
    say(draws, described)
    print(output)
    return output


def say(draws: Draws, described: dict) -> None:
    """Print the figures of the fit."""
    print(f"ELBO: {draws.elbo}")
    print(f"log of the target's integral, by importance sampling: {draws.log_normalizer}")
    if "kl" in described:
        kl = described["kl"]
        print(f"KL(flow || target): {kl['nats']:.4f} ± {kl['standard_error']:.4f} nats")
    print(f"effective samples: {draws.effective_fraction:.1%}")


if __name__ == "__main__":
    run_stage(main)
