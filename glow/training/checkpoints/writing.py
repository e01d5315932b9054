"""A checkpoint is written beside its place, synced to the disk, and renamed when it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from glow.config import TrainRun, config_to_dict
from glow.files.writing import sync
from glow.training.checkpoints.reading import CONFIG, STATE, TENSORS, sha256


@dataclass(frozen=True)
class Snapshot:
    """The contents of a checkpoint.

    Attributes:
        tensors: By file name without suffix (model, ema, optimizer): tensors by name.
        config: The whole configuration of the run.
        state: Step, images_seen and other plain values.
    """

    tensors: Mapping[str, Mapping[str, Tensor]]
    config: TrainRun
    state: Mapping[str, Any]


def write(snapshot: Snapshot, target: Path) -> None:
    """Write the checkpoint ``target``: a directory that appears when all its files are on the disk.

    Raises:
        OSError: when a file cannot be written; names it.
    """
    partial = target.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, tensors in snapshot.tensors.items():
        contiguous = {key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}
        with _writing(partial / TENSORS.format(name)) as path:
            save_file(contiguous, path)
    with _writing(partial / CONFIG) as path:
        path.write_text(yaml.safe_dump(config_to_dict(snapshot.config), sort_keys=False))
    checksums = {path.name: sha256(path) for path in sorted(partial.iterdir())}
    with _writing(partial / STATE) as path:
        path.write_text(json.dumps({**snapshot.state, "sha256": checksums}, indent=1) + "\n")
    for path in [*partial.iterdir(), partial]:
        with _writing(path):
            sync(path)
    if target.exists():
        target.rename(target.with_suffix(".old.partial"))
    partial.rename(target)
    sync(target.parent)


@contextmanager
def _writing(path: Path) -> Iterator[Path]:
    """Name the file in the error of a write: the message of a full disk does not."""
    try:
        yield path
    except (OSError, SafetensorError) as error:
        raise OSError(f"{path}: cannot be written: {error}") from error
