"""Batches of noise, for objectives that need no data: variational inference."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from glow.data.read.batch import Share
from glow.randomness import generator

NUM_VALIDATION = 10_000
FIRST_FACTOR = 0.01


@dataclass(frozen=True)
class NoiseBatch:
    """Noise of one step, or the part of it that one process holds.

    Attributes:
        noise: Standard normal, float32 ``[N, D]``.
        beta: The factor of the target's log-density, ``[N]``.
        skipped: Always empty.
    """

    noise: Tensor
    beta: Tensor
    skipped: tuple[str, ...] = ()

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The arguments of the objective's forward."""
        return self.noise, self.beta

    def __len__(self) -> int:
        """Return N."""
        return len(self.noise)


@dataclass(frozen=True)
class Noise:
    """Batches of noise in ``num_dims`` dimensions; beta rises from 0.01 to 1 in ``anneal_steps`` steps.

    Source: Rezende & Mohamed 2015 (arXiv 1505.05770), equation 20, for beta.
    """

    num_dims: int
    anneal_steps: int = 0

    def train_batches(
        self, batch_size: int, seed: int, images_seen: int = 0, share: Share | None = None
    ) -> Iterator[NoiseBatch]:
        """Yield the parts of the global batches that belong to this process, without end, from ``images_seen`` on.

        The global batch depends on seed and step only.

        Raises:
            ValueError: when the batch is smaller than the number of processes.
        """
        share = share or Share()
        share.check_batch_size(batch_size)
        slots = share.slots(batch_size)
        step = images_seen // batch_size
        while True:
            rng = generator(seed, "noise", step)
            yield self._batch(rng, batch_size, slots, self.factor(step))
            step += 1

    def validation_batches(self, batch_size: int, seed: int, share: Share | None = None) -> Iterator[NoiseBatch]:
        """Yield this process's part of the validation noise, which is the same at every validation."""
        slots = (share or Share()).slots(NUM_VALIDATION)
        whole = self._batch(generator(seed, "validation noise"), NUM_VALIDATION, slots, 1.0)
        for noise, beta in zip(whole.noise.split(batch_size), whole.beta.split(batch_size), strict=True):
            yield NoiseBatch(noise, beta)

    def factor(self, step: int) -> float:
        """Return beta in the step that follows ``step`` finished steps."""
        if step >= self.anneal_steps:
            return 1.0
        return FIRST_FACTOR + (1 - FIRST_FACTOR) * step / self.anneal_steps

    def _batch(self, rng: np.random.Generator, size: int, slots: range, factor: float) -> NoiseBatch:
        noise = rng.standard_normal((size, self.num_dims), dtype=np.float32)[slots.start : slots.stop]
        return NoiseBatch(torch.from_numpy(noise), torch.full((len(noise),), factor))
