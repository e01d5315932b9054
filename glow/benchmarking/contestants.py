"""A model that is measured: it trains as in a training, gives log-probabilities, and draws images."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from glow.execution.memory import drift_of
from glow.planning.measuring import allocations
from glow.training.trainer import Trainer, TrainingBatch


class Contestant:
    """One of the models that take turns.

    Args:
        trainer: Of the model; its steps are those that are timed.
        batches: To train on, again and again.
        draw: Draws so many images, as uint8 in host memory.
    """

    def __init__(self, trainer: Trainer, batches: Sequence[TrainingBatch], draw: Callable[[int], object]) -> None:
        self.trainer = trainer
        self.model = trainer.model
        self.draw = draw
        self._first = batches[0]
        self._batches = itertools.cycle(batches)

    def train(self) -> None:
        """Make one step of the training."""
        self.model.train()
        self.trainer.train_step(next(self._batches))

    @torch.no_grad()
    def log_prob(self) -> Tensor | None:
        """Return the log-probabilities of the first batch."""
        self.model.eval()
        return self.trainer.layout.log_prob([value.to(self.trainer.accelerator.device) for value in self._first.inputs])

    @torch.no_grad()
    def sample(self, count: int) -> None:
        """Draw images."""
        self.model.eval()
        self.draw(count)

    def memory(self) -> dict[str, int]:
        """Return the memory that is taken between two steps, by weights, their averages and the optimiser's state, and
        the most that is taken in a step, as the allocator of the device counts it: bytes.
        """
        state = self.trainer.optimizer.state.values()
        moments = [value for values in state for value in values.values() if isinstance(value, Tensor)]
        held = [*self.model.parameters(), *self.model.buffers(), *self.trainer.ema.average.values(), *moments]
        held_bytes = sum(tensor.nbytes for tensor in held)
        drift_of(self.model, reset=True)  # that something from before is freed within would be warned of
        with allocations(self.trainer.accelerator.device) as counted:
            self.train()
        return {"held_bytes": held_bytes, "peak_bytes": held_bytes + counted.peak_bytes}
