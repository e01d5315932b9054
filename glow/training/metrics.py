"""The record of a run: metrics.jsonl, TensorBoard, config.yaml, environment.json."""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

import glow
from glow.config import TrainRun, config_to_dict
from glow.files.limits import METRICS_BYTES
from glow.files.reading import parse_json, read_file
from glow.files.writing import write_whole
from glow.training.board import Board, Value

METRICS_FILE = "metrics.jsonl"
ENVIRONMENT_FILE = "environment.json"


@dataclass(frozen=True)
class Scale:
    """The unit in which log-probabilities are reported.

    Attributes:
        key: End of the keys of metrics.
        unit: Its name.
        of_loss: Converts a loss in bits/dim, given the number of dimensions.
    """

    key: str
    unit: str
    of_loss: Callable[[float, int], float]


BITS_PER_DIM = Scale("bits_per_dim", "bits/dim", lambda loss, num_dims: loss)
ELBO_NATS = Scale("elbo_nats", "nats", lambda loss, num_dims: -loss * num_dims * math.log(2))


class MetricsLog:
    """Writes the metrics of a step: a JSON line, and the values for TensorBoard.

    A resumed run drops the lines after its checkpoint. Only one process may have the log.

    Args:
        run: The run directory.
        start_step: Steps made before.
        config: The configuration, for TensorBoard.
        has_board: Whether TensorBoard gets the values.
    """

    def __init__(
        self, run: str | Path, start_step: int, config: Mapping[str, Any] | None = None, *, has_board: bool = True
    ) -> None:
        self.path = Path(run) / METRICS_FILE
        self.path.parent.mkdir(parents=True, exist_ok=True)
        kept = [line for line in read_metrics(run) if line["step"] <= start_step]
        write_whole(self.path, "".join(json.dumps(line) + "\n" for line in kept if start_step))
        self._file = self.path.open("a", buffering=1)
        self._board = Board(Path(run) / "tensorboard", start_step) if has_board else None
        if self._board and config:
            self._board.describe(config)

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Write numbers to both places, images (uint8 ``[H, W, 3]``) only to TensorBoard, texts only to the file."""
        line = {key: value for key, value in values.items() if not isinstance(value, np.ndarray)}
        with self._writing():
            self._file.write(json.dumps({"step": step, **line}) + "\n")
            if self._board:
                self._board.write(step, values)

    def __enter__(self) -> MetricsLog:
        """Return the log itself."""
        if self._board:
            self._board.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        """Close both."""
        with self._writing(), self._board or nullcontext(), self._file:
            pass

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise OSError(f"{self.path.parent}: metrics cannot be written: {error}") from error


def read_metrics(run: str | Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl, without a last line that a kill cut short.

    Raises:
        ValueError: when another line is damaged.
    """
    path = Path(run) / METRICS_FILE
    if not os.path.lexists(path):
        return []
    lines = read_file(path, METRICS_BYTES).decode(errors="replace").splitlines()
    parsed = []
    for number, line in enumerate(lines, 1):
        try:
            parsed.append(_parse_line(line, f"{path}: line {number}"))
        except ValueError:
            if number < len(lines):
                raise
    return parsed


def _parse_line(line: str, name: str) -> dict[str, Any]:
    values = parse_json(line, name)
    if not isinstance(values, dict) or type(values.get("step")) is not int:
        raise ValueError(f"{name} is not a JSON object with a step")
    for key, value in values.items():
        is_number = type(value) is float or (type(value) is int and abs(value) <= sys.float_info.max)
        if not (is_number or (isinstance(value, list) and all(isinstance(item, str) for item in value))):
            raise ValueError(f"{name}: {key} is neither a number nor a list of texts")
    return {"step": values["step"], **values}


def write_record(run: TrainRun, device: torch.device, num_processes: int) -> None:
    """Write config.yaml and environment.json."""
    output = Path(run.output)
    write_environment(output, device, num_processes)
    write_whole(output / "config.yaml", config_text(run))


def config_text(run: TrainRun) -> str:
    """Return the configuration as YAML."""
    return yaml.safe_dump(config_to_dict(run), sort_keys=False)


def write_environment(run: str | Path, device: torch.device, num_processes: int) -> None:
    """Write environment.json."""
    path = Path(run) / ENVIRONMENT_FILE
    write_whole(path, json.dumps(describe_environment(device, num_processes), indent=1) + "\n")


def describe_environment(device: torch.device, num_processes: int) -> dict[str, Any]:
    """Return commit, versions, host, device, command line."""
    packages = ("torch", "torchvision", "accelerate", "numpy")
    return {
        "commit": commit(),
        "python": platform.python_version(),
        "versions": {"glow": glow.__version__} | {name: importlib.metadata.version(name) for name in packages},
        "host": platform.node(),
        "num_processes": num_processes,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        "command": sys.argv,
    }


def commit() -> str | None:
    """Return the commit of the code; None outside of a repository, or where git is not installed."""
    if shutil.which("git") is None:
        return None
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or None
