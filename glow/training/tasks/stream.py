"""The task of streamed images: a Glow of shards without an index."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import warnings
from collections.abc import Iterator
from functools import cached_property

from glow.config import TrainRun
from glow.data.read.batch import Share
from glow.data.read.manifest import Split, load_dataset
from glow.data.read.reader import SplitReader
from glow.data.read.stream import LEAST_IMAGES, streamed_batches
from glow.training.batch import TrainingBatch
from glow.training.tasks.images import ImageTask, complete


class StreamTask(ImageTask):
    """Train a Glow of images that are drawn from random shards; validate on another data set, if there is one.

    Raises:
        ValueError: when the configuration does not say what no index can say, or contradicts the validation data.
    """

    def __init__(self, run: TrainRun) -> None:
        assert run.data.stream is not None
        if run.model.image_shape is None:
            raise ValueError("model.image_shape: not set; with data.stream give channels, height and width")
        if run.model.class_conditional and run.model.num_classes is None:
            raise ValueError("model.num_classes: not set; with data.stream and class_conditional give it")
        self.run = run
        digest = hashlib.sha256(f"stream {run.data.stream}".encode()).hexdigest()
        self.classes = None
        self.order = 1
        self.splits = {"train": Split(LEAST_IMAGES, (), digest)}
        if run.data.validation is not None:
            dataset = load_dataset(run.data.validation)
            self.classes = dataset.classes if run.model.class_conditional else None
            path = dataclasses.replace(run.data, path=run.data.validation)
            complete(dataclasses.replace(run, data=path), dataset)  # checks the shape and the classes
            self.splits["validation"] = dataset.split("validation")
        if os.environ.get("RANK", "0") == "0":
            warnings.warn(
                f"{run.data.stream} is streamed: images are drawn from random shards, and a resumed training draws "
                "other ones; prepare --link true makes epochs and resumes exact",
                stacklevel=2,
            )

    def train_batches(self, images_seen: int, share: Share) -> Iterator[TrainingBatch]:
        """Return this process's parts of the global batches, endless, with fresh draws from ``images_seen`` on."""
        run = self.run
        batches = streamed_batches(
            run.data, run.model, run.train.batch_size, (run.train.seed, images_seen), share, self.classes
        )
        return (dataclasses.replace(batch, is_conditional=run.model.class_conditional) for batch in batches)

    @cached_property
    def _held_out(self) -> SplitReader | None:
        data = self.run.data
        return SplitReader(data.validation, "validation", data.root) if data.validation is not None else None
