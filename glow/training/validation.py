"""Measuring a model on held-out data during its training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from accelerate import Accelerator
from torch import nn

from glow.parallel.layout import Layout
from glow.training.batch import TrainingBatch

Validation = Callable[[], Iterable[TrainingBatch]]


@torch.no_grad()
def total_log_prob(layout: Layout, batches: Iterable[TrainingBatch], accelerator: Accelerator) -> tuple[float, int]:
    """Return the log-probability in nats of the batches of all processes, summed, and their number of examples.

    A collective.
    """
    sums = torch.zeros(2, dtype=torch.float64, device=accelerator.device)
    for batch, is_real in layout.in_step(batches):
        log_prob = layout.log_prob([value.to(accelerator.device) for value in batch.inputs])
        if is_real and log_prob is not None:
            sums += torch.stack([log_prob.double().sum(), sums.new_tensor(len(batch))])
    total, count = accelerator.reduce(sums, "sum").tolist()
    return total, int(count)


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Put a model into evaluation mode for a while: maps that depend on the batch in training are fixed then."""
    model.eval()
    try:
        yield
    finally:
        model.train()
