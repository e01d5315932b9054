"""The charts of TensorBoard, in the order in which one looks at them: it sorts them by name."""

from __future__ import annotations

import os
import statistics
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from tensorboard.plugins.hparams.summary_v2 import hparams_pb
from torch.utils.tensorboard import SummaryWriter

from glow.config import flatten

PARTS = ("train", "validation")  # lines of one chart
LIKELIHOODS = ("bits_per_dim", "elbo_nats")
SPEED = ("images_per_s", "images_per_process_per_s", "step_s", "data_wait_s", "data_wait_s_per_s", "peak_memory_bytes")
CONDITION = "health/condition/"  # of each 1x1 weight

Value = float | np.ndarray | list[str]


class Board:
    """Writes the metrics of a step for TensorBoard. Only one process may have it.

    The bits/dim of training and validation are in folders of their own, because TensorBoard shows the same name in
    several folders as one chart.

    Args:
        folder: The directory of the event files.
        start_step: Steps made before. What an interrupted run wrote after them is hidden.
    """

    def __init__(self, folder: Path, start_step: int) -> None:
        self._folder, self._start_step = folder, start_step
        self._writers: dict[str, SummaryWriter] = {}
        self._excepthook = threading.excepthook
        self._writer("")

    def describe(self, config: Mapping[str, Any]) -> None:
        """Show a configuration: as a text, and as the hyperparameters of this run in TensorBoard's table of all runs.

        The table has the last value of each chart beside them, such as the bits/dim of validation.
        """
        text = yaml.safe_dump(dict(config), sort_keys=False)
        self._writer("").add_text("config", "".join(f"    {line}\n" for line in text.splitlines()), self._start_step)
        given = {name: value for name, value in flatten(config).items() if value is not None}
        plain = {name: value if isinstance(value, bool | int | float) else str(value) for name, value in given.items()}
        writer: Any = self._writer("").file_writer  # whose hint is None
        writer.add_summary(hparams_pb(plain))

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Write numbers, and images (uint8 ``[H, W, 3]``)."""
        conditions = [value for key, value in values.items() if key.startswith(CONDITION) and isinstance(value, float)]
        for key, value in values.items():
            part, _, name = key.partition("/")
            if isinstance(value, np.ndarray):
                self._writer("").add_image(f"2_images/{key}", value, step, dataformats="HWC")
            elif part in PARTS and name in LIKELIHOODS:
                self._writer(part).add_scalar(f"1_likelihood/{name}", value, step)
            elif not isinstance(value, list) and not key.startswith(CONDITION):
                self._writer("").add_scalar(chart(key), value, step)
        for function in (min, statistics.median, max) if conditions else ():
            self._writer("").add_scalar(f"5_health/condition_{function.__name__}", function(conditions), step)
        for writer in self._writers.values():
            writer.flush()

    def __enter__(self) -> Board:
        """Keep TensorBoard's threads from printing the traceback of an error that ``write`` also raises."""
        threading.excepthook = self._on_thread_error
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files."""
        try:
            for writer in self._writers.values():
                writer.close()
        finally:
            threading.excepthook = self._excepthook

    def _writer(self, part: str) -> SummaryWriter:
        if part not in self._writers:
            name = _name_for_tensorboard(self._folder / part)
            self._writers[part] = SummaryWriter(name, purge_step=self._start_step + 1)
        return self._writers[part]

    def _on_thread_error(self, error: threading.ExceptHookArgs) -> None:
        is_boards = type(error.thread).__module__ == "tensorboard.summary.writer.event_file_writer"
        if not (is_boards and issubclass(error.exc_type, OSError)):
            self._excepthook(error)


def chart(key: str) -> str:
    """Return the name of the chart of a key of metrics.jsonl: TensorBoard sorts by it."""
    part, _, name = key.partition("/")
    if part == "validation":
        return f"1_likelihood/{name}"
    if part == "train" and name in SPEED:
        return f"3_speed/{name}"
    return f"5_health/{name}" if part == "health" else f"4_training/{name or part}"


def _name_for_tensorboard(folder: Path) -> str:
    """Return a name of a folder that TensorBoard can encode, which takes UTF-8 in every locale."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        str(folder).encode()
    except UnicodeEncodeError:
        # The name by its descriptor, which stays open.
        return f"/proc/self/fd/{os.open(folder, os.O_RDONLY)}"
    return str(folder)
