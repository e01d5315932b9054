"""Trackers of other programs, such as Weights & Biases, that get the metrics beside metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import secrets
import warnings
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from glow.config import TrainRun, config_to_dict, flatten, path_part
from glow.files.limits import JSON_BYTES
from glow.files.reading import parse_json, read_file
from glow.files.schema import from_plain
from glow.files.writing import write_whole
from glow.training.board import Value
from glow.training.metrics import ENVIRONMENT_FILE, read_metrics

TRACKERS_FILE = "trackers.json"


@dataclass(frozen=True)
class Kept:
    """What trackers.json says of a tracker.

    Attributes:
        id: By which the tracker knows the run.
        sent: Last step that was sent, at the start of the last process.
    """

    id: str
    sent: int


class Trackers:
    """Sends the numbers of a step to trackers, each step once. One process of a training has it.

    A resumed training goes on with the same run of each tracker. Steps that it repeats were sent before; their numbers
    are the same, and are not sent again. A tracker that fails is left out from then on, with a warning.

    Args:
        run: The configuration.
        start_step: Steps made before. Make this object before metrics.jsonl is cut to them.

    Raises:
        ValueError: when a tracker does not start.
    """

    def __init__(self, run: TrainRun, start_step: int) -> None:
        names = [name for name in run.trackers if name != "tensorboard"]
        self._open: dict[str, tuple[GeneralTracker, int]] = {}
        if not names:
            return
        path = Path(run.output) / TRACKERS_FILE
        before = from_plain(dict[str, Kept], _read(path), str(path))
        written = max([start_step, *(line["step"] for line in read_metrics(run.output))])
        for name in names:
            tracker, key = _start(name, run, before[name].id if name in before else None)
            sent = max(before[name].sent, written) if name in before else start_step
            self._open[name] = tracker, sent
            before[name] = Kept(key, sent)
        write_whole(path, json.dumps({name: asdict(kept) for name, kept in before.items()}) + "\n")

    def write(self, step: int, values: Mapping[str, Value]) -> None:
        """Send the numbers of a step, by their keys in metrics.jsonl."""
        numbers = {key: value for key, value in values.items() if isinstance(value, int | float)}
        for name, (tracker, sent) in list(self._open.items()):
            if step > sent and numbers:
                try:
                    tracker.log(numbers, step=step)
                except Exception as error:  # of any kind: the training is worth more than its curve
                    del self._open[name]
                    warnings.warn(f"trackers: {name} gets nothing from step {step} on: {_line(error)}", stacklevel=2)

    def __enter__(self) -> Trackers:
        """Return the trackers themselves."""
        return self

    def __exit__(self, *error: object) -> None:
        """Let all trackers send what they have."""
        for name, (tracker, _) in self._open.items():
            try:
                tracker.finish()
            except Exception as failure:
                warnings.warn(f"trackers: {name} did not finish: {_line(failure)}", stacklevel=2)


def _start(name: str, run: TrainRun, known: str | None) -> tuple[GeneralTracker, str]:
    """Begin a run of a tracker, with the configuration and the environment, or go on with a known one."""
    title = Path(run.output).resolve().name
    key = known or f"{path_part(title)}-{secrets.token_hex(4)}"
    options: dict[str, dict[str, Any]] = {
        "wandb": {"id": key, "name": title, "resume": "allow", "dir": run.output},
        "trackio": {"name": key, "resume": "allow"},
        "mlflow": {"run_id": known, "run_name": title},
        "aim": {"run_hash": known, "experiment": title},
    }
    try:
        tracker = LOGGER_TYPE_TO_CLASS[name](run.tracker_project, **options[name])
        tracker.start()
        if known is None or name != "mlflow":  # which takes no second value of a parameter
            tracker.store_init_configuration(_description(run))
    except Exception as error:
        raise ValueError(f"trackers: {name} does not start: {_line(error)}") from error
    made = {"mlflow": lambda: tracker.tracker.info.run_id, "aim": lambda: tracker.tracker.hash}.get(name)
    return tracker, made() if made else key


def _description(run: TrainRun) -> dict[str, Any]:
    """Return the configuration and the environment, as flat names and plain values."""
    environment = Path(run.output) / ENVIRONMENT_FILE
    facts = parse_json(read_file(environment, JSON_BYTES), str(environment))
    flat = flatten({**config_to_dict(run), "environment": facts})
    return {name: value if isinstance(value, bool | int | float) else str(value) for name, value in flat.items()}


def _read(path: Path) -> Any:
    return parse_json(read_file(path, JSON_BYTES), str(path)) if path.exists() else {}


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
