"""The task of images: a Glow of a prepared data set."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property

import numpy as np
import torch
from torch import nn

from glow.config import TrainRun
from glow.data.read.batch import Share
from glow.data.read.loader import eval_batches, train_batches
from glow.data.read.manifest import Dataset, Split
from glow.data.read.order import newest_version
from glow.data.read.reader import SplitReader
from glow.evaluation.health import flow_health
from glow.models.glow import Glow
from glow.sampling.groups import group_size
from glow.sampling.images import Draw, image_grid, sample_images
from glow.training.batch import TrainingBatch
from glow.training.metrics import BITS_PER_DIM, Scale
from glow.training.tasks.task import Batches

NUM_SHOWN = 36


class ImageTask:
    """Train a Glow of the images of a prepared data set."""

    scale: Scale = BITS_PER_DIM

    def __init__(self, run: TrainRun, dataset: Dataset) -> None:
        self.run = run
        self.splits: Mapping[str, Split] = dataset.splits
        self.classes = dataset.classes if run.model.class_conditional else None
        self.order = newest_version(dataset.split("train").num_images)

    def build_model(self) -> Glow:
        """Build the Glow with random weights."""
        model = Glow(self.run.model)
        model.set_memory(self.run.memory, self.run.anchor_every or None)
        return model

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, endless, from the position ``images_seen`` on."""
        run = self.run
        batches = train_batches(run.data, run.train.batch_size, run.train.seed, images_seen, share, self.order)
        return (dataclasses.replace(batch, is_conditional=run.model.class_conditional) for batch in batches)

    def validation(self, share: Share) -> Batches | None:
        """Return a function that gives this process's part of the validation split; None without one."""
        reader, run = self._held_out, self.run
        if reader is None:
            return None

        def batches() -> Iterable[TrainingBatch]:
            size = self._group_size
            held_out = eval_batches(reader, size, run.train.seed, share, run.train.num_validation_images)
            return (dataclasses.replace(batch, is_conditional=run.model.class_conditional) for batch in held_out)

        return batches

    def preview(self, model: nn.Module) -> Mapping[str, float | np.ndarray]:
        """Return a grid of samples, one of real images, and the numerical health of the flow."""
        assert isinstance(model, Glow)
        train, draw = self.run.train, Draw(self.run.train.seed)
        drawn = torch.cat(list(sample_images(model, range(NUM_SHOWN), train.preview_temperature, draw)))
        num_rows = draw.num_rows(model.num_classes, NUM_SHOWN)
        drawn = draw.shown(drawn, model.num_classes, train.preview_temperature)
        shown: dict[str, float | np.ndarray] = {"samples": image_grid(drawn, num_rows)}
        if self._held_out:
            batch = next(eval_batches(self._held_out, self._group_size, train.seed))
            shown |= {"real": image_grid(batch.images[:NUM_SHOWN]), **flow_health(model, batch)}
        return shown

    @cached_property
    def _held_out(self) -> SplitReader | None:
        data = self.run.data
        return SplitReader(data.path, "validation", data.root, data.size) if "validation" in self.splits else None

    @property
    def _group_size(self) -> int:
        assert self.run.model.image_shape is not None
        return group_size(self.run.model.image_shape)


def complete(run: TrainRun, dataset: Dataset) -> TrainRun:
    """Fill in what the data decides: the shape of the images, and the number of classes.

    Raises:
        ValueError: when the configuration contradicts the data set.
    """
    dataset.split("train")
    shape, found = run.model.image_shape, dataset.window(run.data.size)
    if run.data.shift >= min(found[1:]):
        raise ValueError(f"data.shift: {run.data.shift}, but the images of {run.data.path} are {list(found)}")
    if shape is not None and shape != found:
        raise ValueError(
            f"model.image_shape: {list(shape)}, but the images of {run.data.path} are {list(found)}; leave it "
            "out, or prepare the images with another --size or --color"
        )
    num_classes = None
    if run.model.class_conditional:
        if dataset.classes is None:
            raise ValueError(f"model.class_conditional: true, but {run.data.path} has no labels")
        num_classes = run.model.num_classes or len(dataset.classes)
        if num_classes < len(dataset.classes):
            raise ValueError(f"model.num_classes: {num_classes}, but {run.data.path} has {len(dataset.classes)}")
    model = dataclasses.replace(run.model, image_shape=found, num_classes=num_classes)
    return dataclasses.replace(run, model=model)
