"""The files of one checkpoint or exported model. Nothing is read that is not vouched for by a checksum."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file
from torch import Tensor

from glow.config import TrainRun
from glow.files.limits import JSON_BYTES, YAML_BYTES
from glow.files.reading import open_file, parse_yaml, read_file
from glow.files.schema import from_plain
from glow.training.checkpoints.exported import EXPORT, WEIGHTS, is_exported, read_export
from glow.training.checkpoints.state import State, parse_state

STATE, CONFIG, TENSORS = "state.json", "config.yaml", "{}.safetensors"
STEP_PATTERN = re.compile(r"step-(\d{8})", re.ASCII)


def read_state(checkpoint: Path) -> State:
    """Read state.json, or what config.json of an exported model has of it.

    Raises:
        ValueError: when it is missing, damaged, or belongs to another step.
    """
    if is_exported(checkpoint):
        return read_export(checkpoint).state
    path = checkpoint / STATE
    state = parse_state(read_file(path, JSON_BYTES), path)
    named = STEP_PATTERN.fullmatch(checkpoint.name)
    if named and int(named[1]) != state.step:
        raise ValueError(f"{path}: of step {state.step}, but the directory is named {checkpoint.name}")
    return state


def checkpoint_facts(checkpoint: Path, weights: str) -> dict[str, Any]:
    """Return what reports say of a checkpoint: path, step, sha256 of its weights, ``ema`` or ``raw``, and the
    precision of its training: no (float32), bf16 or fp16.

    Raises:
        ValueError: when state.json is damaged, or there are no such weights.
    """
    state = read_state(checkpoint)
    return {
        "path": str(checkpoint),
        "step": state.step,
        "sha256": _expected(checkpoint, state, TENSORS.format(weights_name(checkpoint, weights))),
        "mixed_precision": read_config(checkpoint).train.mixed_precision or "no",
    }


def weights_file(weights: str) -> str:
    """Return the name of the file of the weights ``ema`` or ``raw``."""
    return TENSORS.format("model" if weights == "raw" else "ema")


def weights_name(checkpoint: Path, weights: str) -> str:
    """Return the name of the tensors that are the weights ``ema`` or ``raw``: ``model`` or ``ema``.

    Raises:
        ValueError: when an exported model holds the other weights.
    """
    if not is_exported(checkpoint):
        return "model" if weights == "raw" else "ema"
    held = read_export(checkpoint).weights
    if held != weights:
        raise ValueError(f"{checkpoint}: an exported model that holds the weights {held} alone; give weights {held}")
    return WEIGHTS.partition(".")[0]


def read_config(checkpoint: Path) -> TrainRun:
    """Read the configuration of the run that wrote a checkpoint.

    Raises:
        ValueError: when it is missing, damaged or changed, or not a configuration of this version.
    """
    if is_exported(checkpoint):
        return read_export(checkpoint).run
    path = checkpoint / CONFIG
    content = read_file(path, YAML_BYTES)
    if hashlib.sha256(content).hexdigest() != _expected(checkpoint, read_state(checkpoint), CONFIG):
        raise _damaged(path)
    values = parse_yaml(content, str(path))
    try:
        return from_plain(TrainRun, values)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def read_shapes(checkpoint: Path, name: str) -> dict[str, list[int]]:
    """Return the shapes of tensors by name, without reading the tensors.

    Raises:
        ValueError: when the file is missing or damaged.
    """
    path = checkpoint / name
    open_file(path).close()
    try:
        with safe_open(path, framework="pt") as file:
            return {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def read_tensors(checkpoint: Path, name: str, is_verified: bool = False) -> dict[str, Tensor]:
    """Verify and read the tensors ``model``, ``ema`` or ``optimizer`` of a checkpoint.

    Args:
        checkpoint: Its directory.
        name: Of the tensors.
        is_verified: Whether the caller has compared the checksum of the file already.

    Raises:
        ValueError: when the file is missing or damaged.
    """
    path = checkpoint / TENSORS.format(name)
    if not is_verified:
        verify(checkpoint, path.name)
    try:
        return load_file(path)
    except (SafetensorError, KeyError) as error:  # KeyError: for types of numbers that torch does not have
        raise ValueError(f"{path}: damaged: {error}") from error


def verify(checkpoint: Path, *names: str) -> None:
    """Compare files of a checkpoint with the checksums in state.json: the named ones, or all.

    Raises:
        ValueError: when one is missing or damaged.
    """
    state = read_state(checkpoint)
    for name in names or {CONFIG: "", **state.sha256}:
        expected = _expected(checkpoint, state, name)
        if sha256(checkpoint / name) != expected:
            raise _damaged(checkpoint / name)


def sha256(path: Path) -> str:
    """Return the checksum of a file, in hexadecimal; raise a ValueError if there is no such file."""
    with open_file(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _expected(checkpoint: Path, state: State, name: str) -> str:
    if name not in state.sha256:
        raise ValueError(
            f"{checkpoint / name}: not a file of this checkpoint: {_voucher(checkpoint)} has no checksum of it"
        )
    return state.sha256[name]


def _damaged(path: Path) -> ValueError:
    return ValueError(f"{path}: damaged or changed: its checksum is not the one in {_voucher(path.parent)}")


def _voucher(checkpoint: Path) -> str:
    """Return the name of the file with the checksums."""
    return EXPORT if is_exported(checkpoint) else STATE
