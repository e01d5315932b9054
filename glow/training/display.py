"""What a training records and shows while it runs: metrics, progress, and a line after each validation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack

import numpy as np
from torch import nn

from glow.config import TrainRun, config_to_dict
from glow.console import Progress
from glow.training.board import Value
from glow.training.metrics import MetricsLog, Scale
from glow.training.trackers import Trackers

Preview = Callable[[nn.Module], Mapping[str, float | np.ndarray]]


class Display:
    """Writes metrics.jsonl, TensorBoard and other trackers, and shows the progress. One process of a training has it.

    A context manager.
    """

    def __init__(self, run: TrainRun, start_step: int, scale: Scale) -> None:
        self._scale = scale
        self._num_steps = run.train.num_steps
        self._stack = ExitStack()
        self._trackers = self._stack.enter_context(Trackers(run, start_step))
        has_board = "tensorboard" in run.trackers
        log = MetricsLog(run.output, start_step, config_to_dict(run), has_board=has_board)
        self._log = self._stack.enter_context(log)
        item = "vector" if run.is_of_vectors or run.target.source else "image"
        progress = Progress(self._num_steps, "step", initial=start_step, rated=(item, run.train.batch_size))
        self._progress = self._stack.enter_context(progress)

    def __enter__(self) -> Display:
        """Return the display itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files and the bar."""
        self._stack.close()

    def record(self, step: int, values: Mapping[str, Value]) -> None:
        """Write the metrics of a finished step, if there are any."""
        if values:
            self._log.write(step, values)
            self._trackers.write(step, values)

    def show(self, step: int, loss: float, values: Mapping[str, Value]) -> None:
        """Show a finished step: its loss, in the unit of the reports, and its metrics if it was validated."""
        self._progress.update(note=f"{loss:.3f} {self._scale.unit}")
        losses = {part: values.get(f"{part}/{self._scale.key}") for part in ("train", "validation")}
        if losses["validation"] is not None:
            parts = [f"{part} {mean:.4f}" for part, mean in losses.items() if mean is not None]
            self._progress.print(f"step {step}/{self._num_steps}: {', '.join(parts)} {self._scale.unit}")
