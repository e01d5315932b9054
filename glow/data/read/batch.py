"""Batches of images, and which part of a global batch a process reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glow.data.read.places import Sample


@dataclass(frozen=True)
class Batch:
    """A batch of images, or the part of it that one process holds.

    Attributes:
        keys: The keys of the samples.
        images: uint8 ``[N, C, H, W]``.
        noise: Dequantisation noise, float32 in (0, 1), ``[N, C, H, W]``.
        labels: int64 ``[N]``, or None without labels.
        skipped: One message for each damaged sample that another sample replaces.
        is_conditional: Whether the model takes the labels.
    """

    keys: list[str]
    images: Tensor
    noise: Tensor
    labels: Tensor | None
    skipped: tuple[str, ...] = ()
    is_conditional: bool = False

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the model's forward: images, noise, and labels if the model takes them.

        Raises:
            ValueError: when the model takes labels and the data set has none.
        """
        if not self.is_conditional:
            return self.images, self.noise
        if self.labels is None:
            raise ValueError("the model is class_conditional, but the data set has no labels")
        return self.images, self.noise, self.labels

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    @staticmethod
    def of(
        samples: Sequence[Sample], images: Sequence[np.ndarray] | np.ndarray, noise: Sequence[np.ndarray] | np.ndarray
    ) -> Batch:
        """Make a batch of samples, their images ``[C, H, W]`` and their noise."""
        labels = [sample.label for sample in samples if sample.label is not None]
        return Batch(
            [sample.key for sample in samples],
            torch.from_numpy(np.asarray(images)),
            torch.from_numpy(np.asarray(noise)),
            torch.tensor(labels) if len(labels) == len(samples) else None,
        )

    def part(self, start: int, stop: int) -> Batch:
        """Return the batch of images ``start .. stop - 1``."""
        labels = None if self.labels is None else self.labels[start:stop]
        return Batch(self.keys[start:stop], self.images[start:stop], self.noise[start:stop], labels)

    @staticmethod
    def concatenate(parts: Sequence[Batch]) -> Batch:
        """Join parts, in order."""
        if len(parts) == 1:
            return parts[0]
        labels = [part.labels for part in parts if part.labels is not None]
        return Batch(
            [key for part in parts for key in part.keys],
            torch.cat([part.images for part in parts]),
            torch.cat([part.noise for part in parts]),
            torch.cat(labels) if len(labels) == len(parts) else None,
            tuple(problem for part in parts for problem in part.skipped),
        )


@dataclass(frozen=True)
class Share:
    """Which process this is, and how many processes share the global batches."""

    rank: int = 0
    num_processes: int = 1

    def slots(self, batch_size: int) -> range:
        """Return the positions in a global batch, or in a split, that belong to this process: one range."""
        first, end = (batch_size * r // self.num_processes for r in (self.rank, self.rank + 1))
        return range(first, end)

    def check_batch_size(self, batch_size: int) -> None:
        """Raise a ValueError when a training batch is smaller than the number of processes."""
        if batch_size < self.num_processes:
            raise ValueError(
                f"train.batch_size: {batch_size} is not allowed with {self.num_processes} processes; "
                f"give {self.num_processes} or more"
            )
