"""What a training shows while it runs: a line of metrics, a progress bar, and a sentence after each validation."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack

from tqdm import tqdm

from glow.config import TrainRun
from glow.training.metrics import MetricsLog, Scale, Value


class Display:
    """Writes metrics.jsonl and TensorBoard, and moves the progress bar. One process of a training has it.

    A context manager.
    """

    def __init__(self, run: TrainRun, start_step: int, scale: Scale) -> None:
        self._scale = scale
        self._stack = ExitStack()
        self._log = self._stack.enter_context(MetricsLog(run.output, start_step))
        bar = tqdm(total=run.train.num_steps, initial=start_step, unit="step", disable=None)  # None: on terminals alone
        self._bar = self._stack.enter_context(bar)

    def __enter__(self) -> Display:
        """Return the display itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files and the bar."""
        self._stack.close()

    def show(self, step: int, values: Mapping[str, Value]) -> None:
        """Show a finished step, and its metrics if there are any."""
        self._bar.update()
        if not values:
            return
        self._log.write(step, values)
        losses = {part: values.get(f"{part}/{self._scale.key}") for part in ("train", "validation")}
        if losses["train"] is not None:
            self._bar.set_postfix_str(f"{losses['train']:.3f} {self._scale.unit}")
        if losses["validation"] is not None:
            parts = [f"{part} {loss:.4f}" for part, loss in losses.items() if loss is not None]
            self._bar.write(f"step {step}: {', '.join(parts)} {self._scale.unit}")
