"""A training that starts from the weights of a trained model (``init_from``)."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from glow.config import ModelConfig, TrainRun
from glow.training.checkpoints.exported import is_exported, read_export
from glow.training.checkpoints.manager import CheckpointManager, find_checkpoint
from glow.training.checkpoints.reading import checkpoint_facts, read_config, read_tensors, weights_name

AnyRun = TypeVar("AnyRun", bound=TrainRun)


def with_initial_model(run: AnyRun) -> AnyRun:
    """Return a configuration with the model of ``init_from``, where it leaves the model out.

    The shape of the images stays open: the data decides. A run that has checkpoints has the model in them, so that it
    goes on without the first one.

    Raises:
        ValueError: when there is no such model of images, or the configuration asks for another one.
    """
    if run.init_from is None:
        return run
    initial = read_config(CheckpointManager(run.output).latest() or find_checkpoint(run.init_from))
    if initial.is_of_vectors:
        raise ValueError(f"init_from: {run.init_from}: a flow of vectors, not a Glow of images")
    open_options: dict[str, Any] = {"image_shape": run.model.image_shape}
    if run.model.num_classes is not None:
        open_options["num_classes"] = run.model.num_classes
    given = dataclasses.replace(run.model, image_shape=None, num_classes=None)
    if given == ModelConfig():
        return dataclasses.replace(run, model=dataclasses.replace(initial.model, **open_options))
    for field in dataclasses.fields(ModelConfig):
        mine, other = getattr(run.model, field.name), getattr(initial.model, field.name)
        if field.name not in ("image_shape", "num_classes") and mine != other:
            raise ValueError(
                f"model.{field.name}: {mine!r}, but the model of init_from ({run.init_from}) has {other!r}; give "
                f"{other!r}, or leave out all options of model"
            )
    return run


def initial_weights(run: TrainRun) -> dict[str, Tensor]:
    """Return the averaged weights of ``init_from``, or those that an exported model has.

    Raises:
        ValueError: when there is none, or it is damaged.
    """
    assert run.init_from is not None
    checkpoint = find_checkpoint(run.init_from)
    return read_tensors(checkpoint, weights_name(checkpoint, _weights(checkpoint)))


def initial_sha256(run: TrainRun) -> str | None:
    """Return the checksum of those weights; None for a training that starts from random ones."""
    if run.init_from is None:
        return None
    checkpoint = find_checkpoint(run.init_from)
    return str(checkpoint_facts(checkpoint, _weights(checkpoint))["sha256"])


def _weights(checkpoint: Path) -> str:
    return read_export(checkpoint).weights if is_exported(checkpoint) else "ema"
