"""Exported models, as the Hugging Face Hub has them: model.safetensors, and config.json, which vouches for it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from glow.config import DataConfig, TrainRun, config_to_dict, require
from glow.files.limits import JSON_BYTES
from glow.files.reading import parse_json, read_file
from glow.files.schema import from_plain
from glow.training.checkpoints.state import State

EXPORT, WEIGHTS = "config.json", "model.safetensors"
FORMAT = 1
CHECKSUM = "config_sha256"


@dataclass(frozen=True, kw_only=True)
class Measured:
    """A measured bits/dim, from the report of ``evaluate``.

    Attributes:
        bits_per_dim: The mean over the images.
        standard_error: Of the mean; None for a single image.
        num_images: How many images were measured.
        bound: ``elbo`` or ``iwbo``.
        num_noise_samples: Dequantisation draws for each image.
        seed: Of the draws.
        data: Name of the data set.
        split: Its split.
        data_sha256: Checksum of the split.
    """

    bits_per_dim: float
    standard_error: float | None
    num_images: int
    bound: Literal["elbo", "iwbo"]
    num_noise_samples: int
    seed: int
    data: str
    split: str
    data_sha256: str

    def __post_init__(self) -> None:
        """Check ranges."""
        for name in ("bits_per_dim", "standard_error"):
            value = getattr(self, name)
            require(value is None or math.isfinite(value), name, value, "give a finite number")


@dataclass(frozen=True, kw_only=True)
class Export:
    """The content of config.json.

    Attributes:
        run: The configuration of the training, without paths and places.
        state: Step, images seen, names of the classes, checksums of the data and of the weights.
        weights: Whether the weights are the averaged ones (ema) or those of the last step (raw).
        version: Version of glow that exported the model.
        measured: Its measured bits/dim.
        license: Name of its license, if one was named.
        model_type: Always glow.
    """

    run: TrainRun
    state: State
    weights: Literal["ema", "raw"]
    version: str
    measured: list[Measured] = dataclasses.field(default_factory=list)
    license: str | None = None
    model_type: Literal["glow"] = "glow"


def is_exported(folder: Path) -> bool:
    """Whether a folder is an exported model, not a checkpoint."""
    return os.path.lexists(folder / EXPORT) and not os.path.lexists(folder / "state.json")


def export_text(export: Export) -> str:
    """Return the content of config.json, with its own checksum."""
    state = {name: value for name, value in config_to_dict(export.state).items() if name in _KEPT}
    values = {"format": FORMAT, **config_to_dict(export), "state": state}
    return json.dumps({**values, CHECKSUM: _checksum(values)}, indent=1) + "\n"


def read_export(folder: Path) -> Export:
    """Read config.json.

    Raises:
        ValueError: when it is missing, damaged, changed, of another program, or written by a later version.
    """
    path = folder / EXPORT
    values = parse_json(read_file(path, JSON_BYTES), str(path))
    try:
        if not isinstance(values, dict) or values.get("model_type") != "glow" or CHECKSUM not in values:
            raise ValueError("not the configuration of a model that glow exported")
        checksum, version = values.pop(CHECKSUM), values.get("format")
        if type(version) is int and version > FORMAT:
            raise ValueError(f"written by a later version (format {version}; this version reads {FORMAT})")
        if version != FORMAT or checksum != _checksum(values):
            raise ValueError("damaged or changed: its checksum is not that of its content")
        return from_plain(Export, {key: value for key, value in values.items() if key != "format"})
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def without_places(run: TrainRun) -> TrainRun:
    """Return a configuration without what belongs to a machine or a user: paths, addresses and limits of time."""
    source = name_of_place(run.data.stream or run.data.path)
    vectors = run.vectors
    if vectors.path is not None:
        vectors = dataclasses.replace(vectors, path=name_of_place(vectors.path))
    data = run.data
    if not run.is_of_vectors:
        label = DataConfig.label
        data = dataclasses.replace(data, path=source, stream=None, validation=None, label=label, root=None)
    return dataclasses.replace(
        run,
        output=name_of_place(run.output),
        init_from=run.init_from and name_of_place(run.init_from),
        data=data,
        vectors=vectors,
        trackers=TrainRun.trackers,
        tracker_project=TrainRun.tracker_project,
        time_limit=None,
        num_processes=None,
    )


def name_of_place(place: str) -> str:
    """Return the last part of a path or an address; of a command, which may hold a password, nothing."""
    if place.startswith("pipe:"):
        return "data"
    return Path(re.split(r"[?#]", place)[0]).name or "data"


# Entries of State that say something of the model; the others are for resuming.
_KEPT = ("step", "images_seen", "validation_bits_per_dim", "data_sha256", "classes", "sha256")


def _checksum(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
