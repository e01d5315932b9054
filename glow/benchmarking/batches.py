"""Batches for the timed steps, and the speed of reading batches."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from glow.benchmarking.report import Measurement
from glow.benchmarking.timing import Spread, alternate, rate
from glow.config import BenchmarkRun
from glow.console import Progress
from glow.data.read.batch import Share
from glow.data.read.manifest import Dataset
from glow.planning.measuring import random_inputs
from glow.training.batch import TrainingBatch
from glow.training.tasks.images import ImageTask

NUM_BATCHES = 2


@dataclass(frozen=True)
class RandomBatch:
    """A batch of random images, which belongs to no data set."""

    inputs: tuple[Tensor, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.inputs[0])


def training_batches(run: BenchmarkRun, dataset: Dataset | None) -> list[TrainingBatch]:
    """Return a few batches of the data, or of random images without data."""
    if dataset is None:
        return [RandomBatch(tuple(random_inputs(run.model, run.train.batch_size, seed))) for seed in range(NUM_BATCHES)]
    # Workers would still read while something else is timed.
    quiet = dataclasses.replace(run, data=dataclasses.replace(run.data, num_workers=0))
    return list(itertools.islice(ImageTask(quiet, dataset).train_batches(0, Share()), NUM_BATCHES))


def read(run: BenchmarkRun, dataset: Dataset) -> Measurement:
    """Measure the speed of reading; a call reads a batch for each worker, because workers read ahead."""
    batches = ImageTask(run, dataset).train_batches(0, Share())
    num_batches = max(1, run.data.num_workers)

    def call() -> None:
        for _ in range(num_batches):
            next(batches)

    with Progress(None, "round", "reading") as progress:
        times = alternate({"reading": call}, run.repeats, run.seconds, torch.device("cpu"), progress.update)["reading"]
    num_images = num_batches * run.train.batch_size
    return Measurement("reading", num_images, rate(times, num_images), Spread.of(times))
