"""Whether a run can go on from a checkpoint, and what is different since then."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from glow.config import TrainRun, config_to_dict, flatten
from glow.evaluation.checks import check_class_names
from glow.training.checkpoints.manager import CheckpointManager
from glow.training.checkpoints.models import check_shapes, shapes_of
from glow.training.checkpoints.reading import STATE, read_config, read_shapes, read_state, read_tensors, weights_file
from glow.training.checkpoints.state import State

# Options that may differ without a word: where files lie, and how the training is started.
INCIDENTAL = (
    "output",
    "data.path",
    "data.root",
    "data.validation",
    "vectors.path",
    "data.num_workers",
    "time_limit",
    "num_processes",
    "trackers",
    "tracker_project",
    "parallel.timeout_s",
)
# Options that decide the model, the data, its order, and the state of the optimiser.
FIXED_GROUPS = ("model.", "flow.")
FIXED = (
    "vectors.fresh",
    "target.anneal_steps",
    "data.size",
    "data.crop",
    "data.flip",
    "data.shift",
    "data.stream",
    "data.label",
    "init_from",
    "init_actnorm",
    "freeze",
    "train.seed",
    "train.batch_size",
    "optimizer.name",
)


@dataclass(frozen=True)
class Resumption:
    """The checkpoint from which a run goes on, as the main process sees it.

    Attributes:
        checkpoint: Its directory. Only the main process reads in it.
        state: Its plain values.
        best: Lowest validation bits/dim of the run so far.
        changes: Options that differ from those of the checkpoint, in words.
    """

    checkpoint: Path
    state: State
    best: float
    changes: list[str]


def find_resumption(run: TrainRun, data_sha256: str, classes: Sequence[str] | None = None) -> Resumption | None:
    """Return the newest undamaged checkpoint of a run; None if there is none. All its files are verified.

    Raises:
        ValueError: when all checkpoints are damaged, or the run is not that of the checkpoint.
    """
    checkpoints = CheckpointManager(run.output)
    checkpoint = checkpoints.latest_intact()
    if checkpoint is None:
        return None
    check_same_run(checkpoint, run, data_sha256, classes)
    return Resumption(checkpoint, read_state(checkpoint), checkpoints.best_score(), changed_options(checkpoint, run))


def check_same_run(checkpoint: Path, run: TrainRun, data_sha256: str, classes: Sequence[str] | None = None) -> None:
    """Check that a run trains the model of a checkpoint on the same data in the same order.

    Raises:
        ValueError: names the first option that may not change, or the data.
    """
    state = read_state(checkpoint)
    if state.data_sha256 != data_sha256:
        kind = "target" if run.target.source else "vectors" if run.is_of_vectors else "images"
        raise ValueError(
            f"{run.source}: not the {kind} that the run in {run.output} started with (their sha256 "
            "differs); use those again, or choose another output"
        )
    check_class_names(state.classes, classes, run.source)
    before, now = _options(read_config(checkpoint)), _options(run)
    if state.images_seen != state.step * before["train.batch_size"]:
        raise ValueError(f"{checkpoint / STATE}: images_seen is {state.images_seen}, not that of step {state.step}")
    for name, value in before.items():
        if (name.startswith(FIXED_GROUPS) or name in FIXED) and now[name] != value:
            raise ValueError(
                f"{name}: {now[name]!r}, but the run in {run.output} started with {value!r}; use {value!r} again, "
                "or choose another output"
            )


def read_averages(checkpoint: Path) -> dict[str, Tensor]:
    """Read the averaged weights of a verified checkpoint.

    Raises:
        ValueError: when they are damaged, or not those of the model of the checkpoint.
    """
    tensors = read_tensors(checkpoint, "ema", is_verified=True)
    check_shapes(read_shapes(checkpoint, weights_file("raw")), shapes_of(tensors), checkpoint)
    return tensors


def read_moments(checkpoint: Path) -> dict[str, Tensor]:
    """Read the tensors of the optimiser of a verified checkpoint.

    They are named ``<parameter>/<entry>``, and are numbers, or of the shape of the parameter.

    Raises:
        ValueError: when they are damaged, or do not fit the model of the checkpoint.
    """
    tensors = read_tensors(checkpoint, "optimizer", is_verified=True)
    shapes = read_shapes(checkpoint, weights_file("raw"))
    for key, tensor in tensors.items():
        expected = shapes.get(key.rpartition("/")[0])
        if expected is None or (tensor.dim() and list(tensor.shape) != expected):
            raise ValueError(
                f"{checkpoint}: its optimiser does not fit its model: {key} has shape {list(tensor.shape)}"
            )
    return tensors


def changed_options(checkpoint: Path, run: TrainRun) -> list[str]:
    """Describe the options that differ from those of a checkpoint, such as ``optimizer.lr 0.003 (was 0.002)``."""
    before, now = _options(read_config(checkpoint)), _options(run)
    return [
        f"{name} {now[name]} (was {before[name]})"
        for name in now
        if name not in INCIDENTAL and before.get(name) != now[name]
    ]


def _options(run: TrainRun) -> dict[str, Any]:
    return flatten(config_to_dict(run))
