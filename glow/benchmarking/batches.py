"""Batches to train on while it is timed, and how fast batches are read."""

from __future__ import annotations

import dataclasses
import itertools
from dataclasses import dataclass

import torch
from torch import Tensor
from tqdm import tqdm

from glow.benchmarking.report import Measurement
from glow.benchmarking.timing import Spread, alternate, rate
from glow.config import BenchmarkRun
from glow.data.read.batch import Share
from glow.data.read.manifest import Dataset
from glow.training.tasks.images import ImageTask
from glow.training.trainer import TrainingBatch

NUM_BATCHES = 2


@dataclass(frozen=True)
class RandomBatch:
    """A batch of no data set."""

    inputs: tuple[Tensor, ...]
    skipped: tuple[str, ...] = ()

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.inputs[0])

    @staticmethod
    def draw(size: int, image_shape: tuple[int, int, int], num_classes: int, seed: int) -> RandomBatch:
        """Draw images, noise, and labels where there are classes."""
        rng = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (size, *image_shape), dtype=torch.uint8, generator=rng)
        noise = torch.rand(images.shape, generator=rng).clamp(1e-6, 1 - 1e-6)
        labels = [torch.randint(0, num_classes, (size,), generator=rng)] if num_classes else []
        return RandomBatch((images, noise, *labels))


def training_batches(run: BenchmarkRun, dataset: Dataset | None) -> list[TrainingBatch]:
    """Return a few batches of the data, or of random images where there is none."""
    if dataset is None:
        shape, classes = run.model.image_shape, run.model.num_classes or 0
        assert shape is not None
        return [RandomBatch.draw(run.train.batch_size, shape, classes, seed) for seed in range(NUM_BATCHES)]
    # Workers would go on reading while something else is timed.
    quiet = dataclasses.replace(run, data=dataclasses.replace(run.data, num_workers=0))
    return list(itertools.islice(ImageTask(quiet, dataset).train_batches(0, Share()), NUM_BATCHES))


def read(run: BenchmarkRun, dataset: Dataset) -> Measurement:
    """Measure how fast batches are read; a call reads as many as there are workers, which work ahead."""
    batches = ImageTask(run, dataset).train_batches(0, Share())
    num_batches = max(1, run.data.num_workers)

    def call() -> None:
        for _ in range(num_batches):
            next(batches)

    with tqdm(desc="reading", unit="round", disable=None) as bar:
        times = alternate({"reading": call}, run.repeats, run.seconds, torch.device("cpu"), bar.update)["reading"]
    num_images = num_batches * run.train.batch_size
    return Measurement("reading", num_images, rate(times, num_images), Spread.of(times))
