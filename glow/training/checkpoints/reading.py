"""The files of one checkpoint, read and compared with their checksums."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from glow.config import TrainRun
from glow.files.schema import from_plain

STATE, CONFIG, TENSORS = "state.json", "config.yaml", "{}.safetensors"


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Read state.json.

    Raises:
        ValueError: when it is damaged.
    """
    path = checkpoint / STATE
    try:
        state = json.loads(path.read_text())
        if not isinstance(state["step"], int) or not isinstance(state["sha256"], dict):
            raise TypeError("step and sha256 have other types")
    except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path}: not a readable checkpoint state: {error!r}") from error
    return state


def checkpoint_facts(checkpoint: Path, weights: str) -> dict[str, Any]:
    """Return what reports say of a checkpoint: path, step, and sha256 of its weights, ``ema`` or ``raw``.

    Raises:
        ValueError: when state.json is damaged.
    """
    state = read_state(checkpoint)
    name = "model" if weights == "raw" else "ema"
    return {"path": str(checkpoint), "step": state["step"], "sha256": state["sha256"][f"{name}.safetensors"]}


def trained_classes(checkpoint: Path) -> tuple[str, ...] | None:
    """Return the names of the classes that the model of a checkpoint takes; None if it has none, or is an old one.

    Raises:
        ValueError: when state.json is damaged.
    """
    classes = read_state(checkpoint).get("classes")
    if classes is None:
        return None
    if not (isinstance(classes, list) and all(isinstance(name, str) for name in classes)):
        raise ValueError(f"{checkpoint / STATE}: classes is not a list of names")
    return tuple(classes)


def read_config(checkpoint: Path) -> TrainRun:
    """Read the configuration of the run that wrote a checkpoint.

    Raises:
        ValueError: when it is damaged.
    """
    path = checkpoint / CONFIG
    try:
        return from_plain(TrainRun, yaml.safe_load(path.read_text()))
    except (OSError, TypeError, AttributeError, ValueError, yaml.YAMLError) as error:
        raise ValueError(f"{path}: not a readable configuration: {error}") from error


def read_tensors(checkpoint: Path, name: str) -> dict[str, Tensor]:
    """Verify and read the tensors ``model``, ``ema`` or ``optimizer`` of a checkpoint.

    Raises:
        ValueError: when the file is missing or damaged.
    """
    path = checkpoint / TENSORS.format(name)
    verify(checkpoint, path.name)
    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path}: damaged: {error}") from error


def verify(checkpoint: Path, *names: str) -> None:
    """Compare files of a checkpoint with the checksums in state.json: the named ones, or all.

    Raises:
        ValueError: when one is missing or damaged.
    """
    checksums = read_state(checkpoint)["sha256"]
    for name in names or checksums:
        path = checkpoint / name
        if not path.is_file():
            raise ValueError(f"{path}: missing from the checkpoint")
        if sha256(path) != checksums.get(name):
            raise ValueError(f"{path}: damaged: its checksum is not the one in {STATE}")


def sha256(path: Path) -> str:
    """Return the checksum of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
