"""What a training is about, apart from how it is trained: images of a data set, vectors, or a target."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cached_property, partial
from typing import Protocol

import numpy as np
import torch
from torch import nn

from glow.config import TrainRun
from glow.data.read.loader import Share, eval_batches, train_batches
from glow.data.read.manifest import Dataset, Split
from glow.data.read.reader import SplitReader
from glow.data.vectors.noise import NUM_VALIDATION, Noise
from glow.data.vectors.points import VectorData
from glow.evaluation.health import flow_health
from glow.evaluation.vectors import kl_divergence, picture, plot_points
from glow.inference.build import build_target, fingerprint
from glow.inference.elbo import Elbo
from glow.inference.posterior import draw, noise_batches, plot_posterior
from glow.models.flow import Flow, build_flow
from glow.models.glow import Glow
from glow.sampling.groups import group_size
from glow.sampling.images import Draw, image_grid, sample_images, sample_vectors
from glow.training.metrics import BITS_PER_DIM, ELBO_NATS, Scale
from glow.training.trainer import TrainingBatch

Model = Glow | Flow | Elbo
Batches = Callable[[], Iterable[TrainingBatch]]


class Task(Protocol):
    """What is trained on, and what is shown of it.

    Attributes:
        run: The configuration, with what the data decides.
        splits: ``train``, and ``validation`` where something is held out.
        scale: What the numbers of the training are told in.
    """

    run: TrainRun
    splits: Mapping[str, Split]
    scale: Scale

    def build_model(self) -> Model:
        """Build what is trained, with its first weights."""

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, without end, from a position on."""

    def validation(self, share: Share) -> Batches | None:
        """Return what gives this process's part of what is held out; None where nothing is."""

    def preview(self, model: nn.Module) -> Mapping[str, float | np.ndarray]:
        """Return what to show of a model at a validation."""


class ImageTask:
    """A Glow of the images of a prepared data set."""

    scale: Scale = BITS_PER_DIM

    def __init__(self, run: TrainRun, dataset: Dataset) -> None:
        self.run = run
        self.splits: Mapping[str, Split] = dataset.splits

    def build_model(self) -> Glow:
        """Build the Glow."""
        model = Glow(self.run.model)
        model.set_memory(self.run.memory, self.run.anchor_every or None)
        return model

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, without end, from a position on."""
        run = self.run
        batches = train_batches(run.data, run.train.batch_size, run.train.seed, images_seen, share)
        return (dataclasses.replace(batch, is_conditional=run.model.class_conditional) for batch in batches)

    def validation(self, share: Share) -> Batches | None:
        """Return what gives this process's part of the validation split; None without one."""
        reader, run = self._held_out, self.run
        if reader is None:
            return None

        def batches() -> Iterable[TrainingBatch]:
            size = self._group_size
            held_out = eval_batches(reader, size, run.train.seed, share, run.train.num_validation_images)
            return (dataclasses.replace(batch, is_conditional=run.model.class_conditional) for batch in held_out)

        return batches

    def preview(self, model: nn.Module) -> Mapping[str, float | np.ndarray]:
        """Return a grid of samples, and the health of the flow."""
        assert isinstance(model, Glow)
        drawn = sample_images(model, range(36), self.run.train.preview_temperature, Draw(self.run.train.seed))
        shown: dict[str, float | np.ndarray] = {"samples": image_grid(torch.cat(list(drawn)), model.num_classes)}
        if self._held_out:
            shown |= flow_health(model, next(eval_batches(self._held_out, self._group_size, self.run.train.seed)))
        return shown

    @cached_property
    def _held_out(self) -> SplitReader | None:
        return SplitReader(self.run.data.path, "validation") if "validation" in self.splits else None

    @property
    def _group_size(self) -> int:
        assert self.run.model.image_shape is not None
        return group_size(self.run.model.image_shape)


class VectorTask:
    """A flow of vectors.

    Raises:
        ValueError: when the config contradicts the vectors.
    """

    scale: Scale = BITS_PER_DIM

    def __init__(self, run: TrainRun) -> None:
        self.data = VectorData(run.vectors)
        num_dims = self.data.num_dims
        if run.flow.num_dims not in (None, num_dims):
            raise ValueError(f"flow.num_dims: {run.flow.num_dims}, but the vectors of {run.source} have {num_dims}")
        self.run = dataclasses.replace(run, flow=dataclasses.replace(run.flow, num_dims=num_dims))
        self.splits: Mapping[str, Split] = self.data.splits

    def build_model(self) -> Flow:
        """Build the flow."""
        return build_flow(self.run.flow)

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, without end, from a position on."""
        return self.data.train_batches(self.run.train.batch_size, self.run.train.seed, images_seen, share)

    def validation(self, share: Share) -> Batches | None:
        """Return what gives this process's part of the held-out vectors."""
        return partial(self.data.validation_batches, 1000, share)

    def preview(self, model: nn.Module) -> Mapping[str, float | np.ndarray]:
        """Return data and samples side by side, and the KL divergence from the density of the data if it is known."""
        assert isinstance(model, Flow)
        samples = sample_vectors(model, 2000, self.run.train.seed)
        shown: dict[str, float | np.ndarray] = {}
        if self.data.num_dims > 1:
            shown["samples"] = picture(plot_points(self.data.points[:2000], samples))
        if self.data.density is not None:
            shown["validation/kl_nats"] = kl_divergence(model, self.data.density, self.data.held_out).nats
        return shown


class TargetTask:
    """A flow that is fitted to an unnormalised log-density: the batches are noise.

    Raises:
        ValueError: when the target cannot be had, or the config contradicts it.
    """

    scale: Scale = ELBO_NATS

    def __init__(self, run: TrainRun) -> None:
        self.target = build_target(run)
        is_inverse = run.flow.inverse
        if is_inverse is None and run.flow.kind in ("planar", "radial", "mixture"):
            is_inverse = True  # a step draws samples
        flow = dataclasses.replace(run.flow, num_dims=self.target.num_dims, inverse=is_inverse)
        self.run = dataclasses.replace(run, flow=flow)
        self.noise = Noise(self.target.num_dims, run.target.anneal_steps)
        self.splits: Mapping[str, Split] = {"train": Split(NUM_VALIDATION, (), fingerprint(run, self.target))}

    def build_model(self) -> Elbo:
        """Build the flow, and the bound."""
        return Elbo(build_flow(self.run.flow), self.target)

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, without end, from a position on."""
        return self.noise.train_batches(self.run.train.batch_size, self.run.train.seed, images_seen, share)

    def validation(self, share: Share) -> Batches | None:
        """Return what gives this process's part of the noise that the bound is measured with."""
        return partial(self.noise.validation_batches, 1000, self.run.train.seed, share)

    def preview(self, model: nn.Module) -> Mapping[str, float | np.ndarray]:
        """Return the share of samples that count, by their importance weights, and a picture of the fit."""
        assert isinstance(model, Elbo)
        drawn = draw(model.flow, model.target, noise_batches(model.num_dims, 2000, self.run.train.seed))
        shown: dict[str, float | np.ndarray] = {"validation/effective_samples": drawn.effective_fraction}
        return shown | {"samples": picture(plot_posterior(drawn, model.flow, model.target))}
