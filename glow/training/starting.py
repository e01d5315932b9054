"""The model and the batches with which a training begins, or goes on."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from glow.config import TrainConfig
from glow.data.read.batch import Share
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype
from glow.models.glow import Glow
from glow.parallel.agreement import decided_by_main, read_by_main
from glow.training.batch import TrainingBatch
from glow.training.checkpoints.models import load_weights
from glow.training.checkpoints.reading import read_tensors
from glow.training.initial import initial_sha256, initial_weights
from glow.training.resuming import Resumption
from glow.training.stop import StopRequest
from glow.training.tasks.task import Model, Task


def start(
    task: Task, share: Share, accelerator: Accelerator, found: Resumption | None, stop: StopRequest
) -> tuple[Model, Iterator[TrainingBatch]]:
    """Return the model and its next batches: of a checkpoint, or of a new training (a collective).

    A new model takes its ActNorm statistics from the first global batch. One that starts from a trained model keeps
    its own.

    Raises:
        ValueError: when the first batch does not come, and the training is asked to stop; or the weights of init_from
            do not fit.
    """
    if found:
        task.order = found.state.order
    batches = task.train_batches(found.state.images_seen if found else 0, share)
    model = build_model(task, accelerator)
    if found:
        checkpoint = found.checkpoint
        weights = read_by_main(partial(read_tensors, checkpoint, "model", is_verified=True), accelerator)
        load_weights(model, weights, checkpoint)
    elif task.run.init_from is not None:
        weights = read_by_main(lambda: initial_weights(task.run), accelerator)
        load_weights(model, weights, Path(task.run.init_from))
    else:
        first = initialize(model, lambda: stop.next_of(batches), task.run.train)
        batches = itertools.chain(first, batches)
    return model, batches


def initialize(model: Model, draw: Callable[[], TrainingBatch], train: TrainConfig) -> list[TrainingBatch]:
    """Set what a new model takes from data, and return the batches that it was taken from (a collective)."""
    batches = [draw() for _ in range(math.ceil((train.whitening_images or 1) / train.batch_size))]
    inputs = [torch.cat(values) for values in zip(*(batch.inputs for batch in batches), strict=True)]
    if isinstance(model, Glow):
        size = train.microbatch_size or len(batches[0])
        model.initialize(*inputs, microbatch_size=size, whitens=train.whitening_images is not None)
    else:
        device = next(model.parameters()).device
        model.initialize(*(value.to(device) for value in inputs))
    return batches


def start_facts(task: Task, found: Resumption | None, accelerator: Accelerator) -> dict[str, Any]:
    """Return what checkpoints say of the data of a task, and of the weights it started from (a collective)."""
    sha256 = found.state.init_sha256 if found else decided_by_main(lambda: initial_sha256(task.run), accelerator)
    data = {"data_sha256": task.splits["train"].sha256, "classes": task.classes, "order": task.order}
    return data | {"init_sha256": sha256}


def build_model(task: Task, accelerator: Accelerator) -> Model:
    """Build the whole model with the random weights of ``train.seed``, on the device of this process."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(task.run.train.seed)
        model = task.build_model().to(accelerator.device)
    set_compute_dtype(model, NETWORK_DTYPES[accelerator.mixed_precision])
    return model
