"""What training asks of a task: data, a model, and what to show of it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Protocol

import numpy as np
from torch import nn

from glow.config import TrainRun
from glow.data.read.batch import Share
from glow.data.read.manifest import Split
from glow.inference.elbo import Elbo
from glow.models.flow import Flow
from glow.models.glow import Glow
from glow.training.batch import TrainingBatch
from glow.training.metrics import Scale

Model = Glow | Flow | Elbo
Batches = Callable[[], Iterable[TrainingBatch]]


class Task(Protocol):
    """The data of a training, its model, and what to show of the model.

    Attributes:
        run: The configuration, completed with what the data decides.
        splits: ``train``, and ``validation`` if the data has held-out examples.
        scale: The unit of the reported loss.
        classes: The names of the classes that the model takes; None without classes.
        order: Version of the order of the training images; 1 where there are no versions.
    """

    run: TrainRun
    splits: Mapping[str, Split]
    scale: Scale
    classes: tuple[str, ...] | None
    order: int

    def build_model(self) -> Model:
        """Build the model with random weights."""

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, endless, from the position ``images_seen`` on."""

    def validation(self, share: Share) -> Batches | None:
        """Return a function that gives this process's part of the held-out data; None without such data."""

    def preview(self, model: nn.Module) -> Mapping[str, float | np.ndarray]:
        """Return the figures and pictures to show of a model at each validation."""
