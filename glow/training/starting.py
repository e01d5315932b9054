"""The model and the batches with which a training begins, or goes on."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from accelerate import Accelerator

from glow.data.read.batch import Share
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype
from glow.training.batch import TrainingBatch
from glow.training.checkpoints.models import load_weights
from glow.training.checkpoints.reading import read_state, read_tensors
from glow.training.stop import StopRequest
from glow.training.tasks.task import Model, Task


def start(
    task: Task, share: Share, accelerator: Accelerator, checkpoint: Path | None, stop: StopRequest
) -> tuple[Model, Iterator[TrainingBatch]]:
    """Return the model and its next batches: of a checkpoint, or of a new training (a collective then).

    A new model takes its ActNorm statistics from the first global batch.

    Raises:
        ValueError: when the first batch does not come, and the training is asked to stop.
    """
    images_seen = read_state(checkpoint).images_seen if checkpoint else 0
    batches = task.train_batches(images_seen, share)
    model = build_model(task, accelerator)
    if checkpoint:
        load_weights(model, read_tensors(checkpoint, "model"), checkpoint)
    else:
        first = stop.next_of(batches)
        model.initialize(*(value.to(accelerator.device) for value in first.inputs))
        batches = itertools.chain([first], batches)
    return model, batches


def build_model(task: Task, accelerator: Accelerator) -> Model:
    """Build the whole model with the random weights of ``train.seed``, on the device of this process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.run.train.seed)
        model = task.build_model().to(accelerator.device)
    set_compute_dtype(model, NETWORK_DTYPES[accelerator.mixed_precision])
    return model
