"""The task of vectors: a flow of a table or of a density that is known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
from torch import nn

from glow.config import TrainRun
from glow.data.read.batch import Share
from glow.data.read.manifest import Split
from glow.data.vectors.points import VectorData
from glow.evaluation.vectors import kl_divergence, picture, plot_points
from glow.models.flow import Flow, build_flow
from glow.sampling.images import sample_vectors
from glow.training.batch import TrainingBatch
from glow.training.metrics import BITS_PER_DIM, Scale
from glow.training.tasks.task import Batches


class VectorTask:
    """Train a flow of vectors.

    Raises:
        ValueError: when the configuration contradicts the vectors.
    """

    scale: Scale = BITS_PER_DIM
    classes: tuple[str, ...] | None = None
    order = 1

    def __init__(self, run: TrainRun) -> None:
        self.data = VectorData(run.vectors)
        num_dims = self.data.num_dims
        if run.flow.num_dims not in (None, num_dims):
            raise ValueError(f"flow.num_dims: {run.flow.num_dims}, but the vectors of {run.source} have {num_dims}")
        self.run = dataclasses.replace(run, flow=dataclasses.replace(run.flow, num_dims=num_dims))
        self.splits: Mapping[str, Split] = self.data.splits

    def build_model(self) -> Flow:
        """Build the flow with random weights."""
        return build_flow(self.run.flow)

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, endless, from the position ``images_seen`` on."""
        return self.data.train_batches(self.run.train.batch_size, self.run.train.seed, images_seen, share)

    def validation(self, share: Share) -> Batches | None:
        """Return a function that gives this process's part of the held-out vectors."""
        return partial(self.data.validation_batches, 1000, share)

    def preview(self, model: nn.Module) -> Mapping[str, float | np.ndarray]:
        """Return data and samples side by side, and the KL divergence to a known density of the data."""
        assert isinstance(model, Flow)
        samples = sample_vectors(model, 2000, self.run.train.seed)
        shown: dict[str, float | np.ndarray] = {}
        if self.data.num_dims > 1:
            shown["samples"] = picture(plot_points(self.data.points[:2000], samples))
        if self.data.density is not None:
            shown["validation/kl_nats"] = kl_divergence(model, self.data.density, self.data.held_out).nats
        return shown
