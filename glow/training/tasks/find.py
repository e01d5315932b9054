"""Which task a configuration asks for."""

from __future__ import annotations

from glow.config import TrainRun
from glow.data.read.manifest import load_dataset
from glow.training.initial import with_initial_model
from glow.training.tasks.images import ImageTask, complete
from glow.training.tasks.stream import StreamTask
from glow.training.tasks.target import TargetTask
from glow.training.tasks.task import Task
from glow.training.tasks.vectors import VectorTask


def find_task(run: TrainRun) -> Task:
    """Return the task of a configuration, with its data opened.

    Raises:
        ValueError: when the configuration contradicts the data.
    """
    run = with_initial_model(run)
    if run.target.source:
        return TargetTask(run)
    if run.is_of_vectors:
        return VectorTask(run)
    if run.data.stream is not None:
        return StreamTask(run)
    dataset = load_dataset(run.data.path)
    return ImageTask(complete(run, dataset), dataset)
