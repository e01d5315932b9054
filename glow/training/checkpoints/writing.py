"""A checkpoint is written beside its place, synced to the disk, and renamed when it is whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from glow.config import TrainRun, config_to_dict
from glow.files.writing import sync
from glow.training.checkpoints.reading import CONFIG, STATE, TENSORS, sha256
from glow.training.checkpoints.state import State, state_text


@dataclass(frozen=True)
class Snapshot:
    """The contents of a checkpoint.

    Attributes:
        tensors: By file name without suffix (model, ema, optimizer): tensors by name.
        config: The whole configuration of the run.
        state: Step, images_seen and other plain values; without checksums.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    config: TrainRun
    state: State


def write(snapshot: Snapshot, target: Path) -> None:
    """Write the checkpoint ``target``: a directory that appears when all its files are on the disk.

    Raises:
        OSError: when a file cannot be written; names it.
    """
    partial = target.with_suffix(".partial")
    remove(partial)
    partial.mkdir(parents=True)
    for name, tensors in snapshot.tensors.items():
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        with _writing(partial / TENSORS.format(name)) as path:
            save_file(contiguous, path)
    with _writing(partial / CONFIG) as path:
        path.write_text(yaml.safe_dump(config_to_dict(snapshot.config), sort_keys=False))
    checksums = {path.name: sha256(path) for path in sorted(partial.iterdir())}
    with _writing(partial / STATE) as path:
        path.write_text(state_text(replace(snapshot.state, sha256=checksums)))
    for path in [*partial.iterdir(), partial]:
        with _writing(path):
            sync(path)
    if os.path.lexists(target):
        old = target.with_suffix(".old.partial")
        remove(old)
        target.rename(old)
    partial.rename(target)
    sync(target.parent)


def remove(path: Path) -> None:
    """Remove a directory, a file, or a symbolic link but not what it points to; do nothing if there is none."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Name the file in the error of a write: the message of a full disk does not."""
    try:
        yield path
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
