"""The task of variational inference: a flow fitted to an unnormalised log-density."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from torch import nn

from glow.config import TrainRun
from glow.data.read.batch import Share
from glow.data.read.manifest import Split
from glow.data.vectors.noise import NUM_VALIDATION, Noise
from glow.evaluation.vectors import picture
from glow.inference.build import build_target, fingerprint
from glow.inference.elbo import Elbo
from glow.inference.pictures import plot_posterior
from glow.inference.posterior import draw, noise_batches
from glow.models.flow import build_flow
from glow.training.batch import TrainingBatch
from glow.training.metrics import ELBO_NATS, Scale
from glow.training.tasks.task import Batches


class TargetTask:
    """Fit a flow to an unnormalised log-density by the evidence lower bound. The batches are noise.

    Raises:
        ValueError: when the target cannot be built, or the configuration contradicts it.
    """

    scale: Scale = ELBO_NATS
    classes: tuple[str, ...] | None = None
    order = 1

    def __init__(self, run: TrainRun) -> None:
        self.target = build_target(run)
        is_inverse = run.flow.inverse
        if is_inverse is None and run.flow.kind in ("planar", "radial", "mixture"):
            is_inverse = True  # a training step draws samples
        flow = dataclasses.replace(run.flow, num_dims=self.target.num_dims, inverse=is_inverse)
        self.run = dataclasses.replace(run, flow=flow)
        self.noise = Noise(self.target.num_dims, run.target.anneal_steps)
        self.splits: Mapping[str, Split] = {"train": Split(NUM_VALIDATION, (), fingerprint(run, self.target))}

    def build_model(self) -> Elbo:
        """Build the flow with random weights, within its bound."""
        return Elbo(build_flow(self.run.flow), self.target)

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, endless, from the position ``images_seen`` on."""
        return self.noise.train_batches(self.run.train.batch_size, self.run.train.seed, images_seen, share)

    def validation(self, share: Share) -> Batches | None:
        """Return a function that gives this process's part of the noise that measures the bound."""
        return partial(self.noise.validation_batches, 1000, self.run.train.seed, share)

    def preview(self, model: nn.Module) -> Mapping[str, float | np.ndarray]:
        """Return the effective share of importance-weighted samples, and a picture of the fit."""
        assert isinstance(model, Elbo)
        drawn = draw(model.flow, model.target, noise_batches(model.num_dims, 2000, self.run.train.seed))
        shown: dict[str, float | np.ndarray] = {"validation/effective_samples": drawn.effective_fraction}
        return shown | {"samples": picture(plot_posterior(drawn, model.flow, model.target))}
