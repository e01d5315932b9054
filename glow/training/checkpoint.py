"""Checkpoints: directories of safetensors, YAML and JSON, written whole or not at all."""

from __future__ import annotations

import copy
import hashlib
import itertools
import json
import os
import re
import shutil
import warnings
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from glow.config import TrainRun, config_from_dict, config_to_dict
from glow.models.flow import Flow, build_flow
from glow.models.glow import Glow
from glow.parallel.tensors import laid_out_like

STEP_PATTERN = re.compile(r"step-(\d{8})")


@dataclass(frozen=True)
class Snapshot:
    """What a checkpoint holds.

    Attributes:
        tensors: By file name without suffix (model, ema, optimizer): tensors by name.
        config: The whole configuration of the run.
        state: Step, images_seen and other plain values.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    config: TrainRun
    state: Mapping[str, Any]


class CheckpointManager:
    """The checkpoints of one run: ``<run>/checkpoints/step-00001000/``."""

    def __init__(self, run: str | Path, keep_last: int = 2, keep_every: int | None = None) -> None:
        self.directory = Path(run) / "checkpoints"
        self.keep_last = keep_last
        self.keep_every = keep_every

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint aside, sync it to disk, and rename it into place; then remove old ones."""
        target = self.directory / f"step-{snapshot.state['step']:08d}"
        partial = target.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for name, tensors in snapshot.tensors.items():
            contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
            with _writing(partial / f"{name}.safetensors") as path:
                save_file(contiguous, path)
        with _writing(partial / "config.yaml") as path:
            path.write_text(yaml.safe_dump(config_to_dict(snapshot.config), sort_keys=False))
        checksums = {path.name: _sha256(path) for path in sorted(partial.iterdir())}
        with _writing(partial / "state.json") as path:
            path.write_text(json.dumps({**snapshot.state, "sha256": checksums}, indent=1) + "\n")
        for path in [*partial.iterdir(), partial]:
            with _writing(path):
                _fsync(path)
        if target.exists():
            target.rename(target.with_suffix(".old.partial"))
        partial.rename(target)
        _fsync(self.directory)
        self.prune()
        return target

    def all(self) -> list[Path]:
        """Return the complete checkpoints, oldest first."""
        if not self.directory.is_dir():
            return []
        return sorted(path for path in self.directory.iterdir() if STEP_PATTERN.fullmatch(path.name))

    def latest(self) -> Path | None:
        """Return the newest checkpoint, or None."""
        return self.all()[-1] if self.all() else None

    def latest_intact(self) -> Path | None:
        """Return the newest checkpoint whose files all have their checksums; set newer ones aside, with a warning.

        Raises:
            ValueError: when there are checkpoints, but all are damaged; they stay where they are.
        """
        damaged: list[tuple[Path, ValueError]] = []
        for path in reversed(self.all()):
            try:
                verify(path)
            except ValueError as error:
                damaged.append((path, error))
                continue
            for other, problem in damaged:
                warnings.warn(f"{problem}. Set aside as {_set_aside(other)}; trying the one before", stacklevel=2)
            return path
        if damaged:
            raise ValueError(
                f"{damaged[0][1]}, and of {len(damaged)} checkpoints none is intact; remove {self.directory} to begin "
                "anew, or choose another output"
            )
        return None

    def best(self) -> Path | None:
        """Return the checkpoint with the lowest validation bits/dim, or None where none was validated."""
        validated = []
        for path in self.all():
            with suppress(ValueError):  # a damaged one is not the best
                score = read_state(path).get("validation_bits_per_dim")
                validated += [] if score is None else [(score, path)]
        return min(validated)[1] if validated else None

    def prune(self) -> None:
        """Remove all but the last, the best and each ``keep_every``-th, and what an interrupted save left behind."""
        old = set(self.all()[: -self.keep_last]) - {self.best()}
        for path in {path for path in old if self.keep_every is None or _step_of(path) % self.keep_every}:
            # Renamed first, so that a removal cut short leaves nothing that looks like a checkpoint.
            shutil.rmtree(path.rename(path.with_suffix(".partial")))
        for path in self.directory.glob("*.partial"):
            shutil.rmtree(path)


class BackgroundSaver:
    """Writes checkpoints in a thread, one at a time: training waits only for the copy to host memory.

    A context manager; leaving it waits for the last write.
    """

    def __init__(self, checkpoints: CheckpointManager) -> None:
        self.checkpoints = checkpoints
        self._executor = ThreadPoolExecutor(max_workers=1)
        self._pending: Future[Path] | None = None

    def __enter__(self) -> BackgroundSaver:
        """Return the saver itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        """Wait for the last write; its failure is an error unless there is one already."""
        self._executor.shutdown()
        if kind is None:
            self.check()

    def save(self, snapshot: Snapshot) -> None:
        """Write the tensors, which nobody may change any more, in the background, after the checkpoint before."""
        state = copy.deepcopy(dict(snapshot.state))
        if self._pending is not None:
            self._pending.result()
        self._pending = self._executor.submit(self.checkpoints.save, Snapshot(snapshot.tensors, snapshot.config, state))

    def check(self) -> None:
        """Raise the error of a write that failed; does not wait."""
        if self._pending is not None and self._pending.done():
            self._pending.result()


def verify(checkpoint: Path) -> None:
    """Compare all files of a checkpoint with their checksums.

    Raises:
        ValueError: for one that is missing or damaged.
    """
    for name, checksum in read_state(checkpoint)["sha256"].items():
        path = checkpoint / name
        if not path.is_file():
            raise ValueError(f"{path}: missing from the checkpoint")
        if _sha256(path) != checksum:
            raise ValueError(f"{path}: damaged: its checksum is not the one in state.json")


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read state.json.

    Raises:
        ValueError: when it is damaged.
    """
    path = checkpoint / "state.json"
    try:
        state = json.loads(path.read_text())
        if not isinstance(state["step"], int) or not isinstance(state["sha256"], dict):
            raise TypeError("step and sha256 have other types")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a readable checkpoint state: {error!r}") from error
    return state


def read_config(checkpoint: Path) -> TrainRun:
    """Read the configuration of the run that wrote a checkpoint."""
    path = checkpoint / "config.yaml"
    try:
        return config_from_dict(TrainRun, yaml.safe_load(path.read_text()))
    except (OSError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable configuration: {error}") from error


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """Read one safetensors file of a checkpoint, after a look at its checksum.

    Raises:
        ValueError: when the file is missing or damaged.
    """
    path = checkpoint / f"{name}.safetensors"
    if not path.is_file():
        raise ValueError(f"{path}: missing from the checkpoint")
    if _sha256(path) != read_state(checkpoint)["sha256"].get(path.name):
        raise ValueError(f"{path}: damaged: its checksum is not the one in state.json")
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def find_checkpoint(path: str | Path, which: str = "latest") -> Path:
    """Return the directory of a checkpoint, given it or a run directory.

    Args:
        path: ``runs/NAME`` or ``runs/NAME/checkpoints/step-N``.
        which: ``latest`` or ``best``, for a run directory.

    Raises:
        ValueError: when there is none.
    """
    path = Path(path)
    if (path / "state.json").is_file():
        return path
    manager = CheckpointManager(path)
    found = manager.best() if which == "best" else manager.latest()
    if not path.exists():
        raise ValueError(f"{path}: no such checkpoint or run directory")
    if found is None:
        raise ValueError(f"{path}: no {which} checkpoint there (neither a checkpoint nor a run directory with one)")
    return found


def run_directory(checkpoint: Path) -> Path:
    """Return the run directory that a checkpoint belongs to: the place for samples and reports."""
    checkpoint = checkpoint.resolve()
    return checkpoint.parent.parent if checkpoint.parent.name == "checkpoints" else checkpoint


def load_model(path: str | Path, which: str = "latest", weights: str = "ema") -> Glow:
    """Build the Glow of a checkpoint and load its weights; needs nothing but the checkpoint.

    Args:
        path: ``runs/NAME`` or ``runs/NAME/checkpoints/step-N``.
        which: ``latest`` or ``best``, for a run directory.
        weights: ``ema`` or ``raw``.

    Raises:
        ValueError: when there is no such checkpoint, it is damaged, or its model is one of vectors.
    """
    checkpoint = find_checkpoint(path, which)
    run = read_config(checkpoint)
    if run.is_of_vectors:
        raise ValueError(f"{checkpoint}: a flow of vectors, not a Glow of images")
    model = Glow(run.model)
    load_weights(model, _read_weights(checkpoint, weights), checkpoint)
    return model.eval()


def load_flow(path: str | Path, which: str = "latest", weights: str = "ema") -> Flow:
    """Build the flow of vectors of a checkpoint and load its weights, as ``load_model`` does for images.

    Raises:
        ValueError: when there is no such checkpoint, it is damaged, or its model is one of images.
    """
    checkpoint = find_checkpoint(path, which)
    run = read_config(checkpoint)
    if not run.is_of_vectors:
        raise ValueError(f"{checkpoint}: a Glow of images, not a flow of vectors")
    flow = build_flow(run.flow)
    tensors = _read_weights(checkpoint, weights)
    if run.target.source:  # what was trained is the bound, of which the flow is a part
        tensors = {name.removeprefix("flow."): tensor for name, tensor in tensors.items()}
    load_weights(flow, tensors, checkpoint)
    return flow.eval()


def _read_weights(checkpoint: Path, weights: str) -> dict[str, Tensor]:
    return read_tensors(checkpoint, "model" if weights == "raw" else "ema")


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Load a state dict; a missing, additional or ill-shaped tensor is a ValueError."""
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint}: its weights do not fit its model: {error}") from error


def check_same_run(checkpoint: Path, new: TrainRun, data_sha256: str) -> None:
    """Raise a ValueError that names what a run cannot change on resuming: model, data and its order, optimiser."""
    if read_state(checkpoint)["data_sha256"] != data_sha256:
        kind = "target" if new.target.source else "vectors" if new.is_of_vectors else "images"
        raise ValueError(
            f"{new.source}: not the {kind} that the run in {new.output} was begun with (their sha256 differs); go on "
            "with those, or choose another output"
        )

    def fixed(run: TrainRun) -> dict[str, Any]:
        return {
            **{f"model.{key}": value for key, value in config_to_dict(run.model).items()},
            **{f"flow.{key}": value for key, value in config_to_dict(run.flow).items()},
            "vectors.fresh": run.vectors.fresh,
            "target.anneal_steps": run.target.anneal_steps,
            "data.flip": run.data.flip,
            "data.shift": run.data.shift,
            "train.seed": run.train.seed,
            "train.batch_size": run.train.batch_size,
            "optimizer.name": run.optimizer.name,
        }

    before, now = fixed(read_config(checkpoint)), fixed(new)
    for key, value in before.items():
        if now[key] != value:
            raise ValueError(
                f"{key}: {now[key]!r}, but the run in {new.output} was begun with {value!r}; go on with that, or "
                "choose another output"
            )


def changed_options(checkpoint: Path, new: TrainRun) -> list[str]:
    """Describe every option that differs from those a checkpoint was written with, but for where the run lies."""
    before, now = flatten(config_to_dict(read_config(checkpoint))), flatten(config_to_dict(new))
    incidental = ("output", "data.path", "vectors.path", "data.num_workers", "time_limit", "num_processes")
    return [
        f"{name} {now[name]} (was {before[name]})"
        for name in now
        if name not in incidental and before.get(name) != now[name]
    ]


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested dicts as one, with names such as ``optimizer.lr``."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value}
    return flat


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimiser's state as tensors named ``<parameter>/<entry>``."""
    return {
        f"{name}/{entry}": torch.as_tensor(value)
        for name, parameter in model.named_parameters()
        for entry, value in optimizer.state[parameter].items()
    }


def load_optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Restore what ``optimizer_tensors`` of the whole model returned, on the devices where torch's optimisers want
    it.
    """
    parameters = dict(model.named_parameters())
    numbers = {name: number for number, name in enumerate(parameters)}
    state: dict[int, dict[str, Tensor]] = {number: {} for number in numbers.values()}
    for key, tensor in tensors.items():
        name, entry = key.rsplit("/", 1)
        if name in parameters:  # others belong to other stages of a pipeline
            parameter = parameters[name]
            is_like = tensor.shape == parameter.shape and tensor.dim() > 0
            state[numbers[name]][entry] = laid_out_like(tensor, parameter) if is_like else tensor
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def _set_aside(checkpoint: Path) -> Path:
    """Give a damaged checkpoint a name by which nobody takes it for one."""
    names = (checkpoint.with_suffix(f".damaged-{number}") for number in itertools.count(1))
    return checkpoint.rename(next(name for name in names if not name.exists()))


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix("step-"))


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Name the file in the error of a write: what says that a disk is full does not."""
    try:
        yield path
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path}: cannot be written: {error}") from error


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
