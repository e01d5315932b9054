"""Examples that could not be read and were skipped: counted over all processes, listed, and limited."""

from __future__ import annotations

from typing import Any

from accelerate.utils import gather_object

from glow.config import TrainRun
from glow.training.batch import TrainingBatch


class Skipped:
    """The skipped examples of a training.

    Attributes:
        count: Number since the training began.
        since_log: Their problems since the last line of the log, each once.
    """

    def __init__(self, run: TrainRun, num_images: int, is_reader: bool) -> None:
        self.count = 0
        self.since_log: list[str] = []
        self._config = run.data
        self._num_images = num_images  # of the split
        self._is_reader = is_reader  # the processes of one pipeline read the same batch: one of them reports

    def in_batch(self, batch: TrainingBatch) -> list[str]:
        """Return the problems that this process reports."""
        return list(batch.skipped) if self._is_reader else []

    def record(self, batch: TrainingBatch, images_seen: int) -> None:
        """Take in the problems of all processes in a step (a collective).

        Raises:
            ValueError: when more examples were skipped than data.max_skipped allows.
        """
        problems = gather_object(self.in_batch(batch))
        self.count += len(problems)
        self.since_log += [problem for problem in problems if problem not in self.since_log]
        images = max(images_seen, self._num_images)
        if self.count > self._config.max_skipped * images:
            raise ValueError(
                f"data.max_skipped: {self.count} of {images} images were skipped, more than the fraction "
                f"{self._config.max_skipped} that is allowed; the last: {problems[-1]}"
            )

    def metrics(self) -> dict[str, Any]:
        """Return the count, and the problems since the last line of the log."""
        values: dict[str, Any] = {"data/num_skipped": self.count} if self._config.on_error == "skip" else {}
        if self.since_log:
            values["data/skipped"] = self.since_log
        self.since_log = []
        return values
