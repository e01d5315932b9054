"""The models in checkpoints: built from the configuration, with the saved weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn

from glow.config import FlowConfig, ModelConfig
from glow.execution.precision import NETWORK_DTYPES, set_compute_dtype
from glow.models.flow import Flow, build_flow
from glow.models.glow import Glow
from glow.training.checkpoints.building import LimitedNumbers
from glow.training.checkpoints.manager import find_checkpoint
from glow.training.checkpoints.reading import TENSORS, read_config, read_shapes, read_tensors, weights_name

Model = TypeVar("Model", bound=nn.Module)
Shapes = Mapping[str, list[int]]
SLACK = 4
"""Numbers that building a model may ask for, over the numbers in it: it draws some and computes others of them."""


def load_model(path: str | Path, which: str = "latest", weights: str = "ema", dtype: str = "float32") -> Glow:
    """Build the Glow of a checkpoint and load its weights; the checkpoint alone is needed.

    The precision of the training does not matter: measurements are comparable only if all are made in one precision.

    Args:
        path: ``runs/NAME`` or ``runs/NAME/checkpoints/step-N``.
        which: ``latest`` or ``best`` of a run directory.
        weights: ``ema`` (averaged) or ``raw`` (last).
        dtype: Precision of the coupling networks: ``float32``, ``bf16`` or ``fp16``.

    Raises:
        ValueError: when there is no such checkpoint, it is damaged, or its model is a flow of vectors.
    """
    checkpoint = find_checkpoint(path, which, weights)
    run = read_config(checkpoint)
    if run.is_of_vectors:
        raise ValueError(f"{checkpoint}: a flow of vectors, not a Glow of images")
    model = _read_fitting(checkpoint, weights, lambda: Glow(run.model), _num_layers(run.model))
    set_compute_dtype(model, NETWORK_DTYPES["no" if dtype == "float32" else dtype])
    return model.eval()


def load_flow(path: str | Path, which: str = "latest", weights: str = "ema") -> Flow:
    """Build the flow of vectors of a checkpoint and load its weights, as ``load_model`` does for images.

    Raises:
        ValueError: when there is no such checkpoint, it is damaged, or its model is a Glow of images.
    """
    checkpoint = find_checkpoint(path, which, weights)
    run = read_config(checkpoint)
    if not run.is_of_vectors:
        raise ValueError(f"{checkpoint}: a Glow of images, not a flow of vectors")
    prefix = "flow." if run.target.source else ""  # the bound was trained, and the flow is a part of it
    return _read_fitting(checkpoint, weights, lambda: build_flow(run.flow), _num_layers(run.flow), prefix).eval()


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Load a state dict.

    Raises:
        ValueError: when a tensor is missing, unknown, or of another shape.
    """
    check_shapes(shapes_of(model.state_dict()), shapes_of(tensors), checkpoint)
    model.load_state_dict(tensors)


def check_shapes(expected: Shapes, found: Shapes, checkpoint: Path) -> None:
    """Raise a ValueError that names a tensor which is missing, unknown, or of another shape."""
    for name in [*expected, *found]:
        if expected.get(name) != found.get(name):
            shapes = [shapes.get(name, "no such tensor") for shapes in (found, expected)]
            raise ValueError(f"{checkpoint}: its weights do not fit its model: {name}: {shapes[0]}, not {shapes[1]}")


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Return the shapes of tensors by name."""
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def _read_fitting(
    checkpoint: Path, weights: str, build: Callable[[], Model], num_layers: int, prefix: str = ""
) -> Model:
    """Build a model and read its weights, once it is known that the model is as large as they are.

    The configuration may be a stranger's: nothing of the size that it asks for is built before.
    """
    name = weights_name(checkpoint, weights)
    found = read_shapes(checkpoint, TENSORS.format(name))
    if num_layers > len(found):
        raise ValueError(
            f"{checkpoint}: its weights do not fit its model: {len(found)} tensors, but {num_layers:,} layers"
        )
    num_numbers = sum(math.prod(shape) for shape in found.values())
    try:
        try:
            with LimitedNumbers(SLACK * num_numbers + 10**6):
                model = build()
        except MemoryError:
            with torch.device("meta"):  # shapes without memory; importing this takes seconds
                model = build()
    except (ValueError, TypeError, RuntimeError, ArithmeticError) as error:
        raise ValueError(f"{checkpoint}: its model cannot be built: {error}") from error
    check_shapes(
        shapes_of(model.state_dict()),
        {name.removeprefix(prefix): shape for name, shape in found.items()},
        checkpoint,
    )
    tensors = read_tensors(checkpoint, name)
    model = build() if next(model.parameters()).is_meta else model
    model.load_state_dict({name.removeprefix(prefix): tensor for name, tensor in tensors.items()})
    return model


def _num_layers(config: ModelConfig | FlowConfig) -> int:
    """Return the number of layers; each has at least one tensor of its own."""
    if isinstance(config, FlowConfig):
        return config.num_layers * (config.num_hidden_layers or 1)
    steps = sum(config.steps) * (config.num_network_blocks or 1)
    return steps + (config.dequantization_steps or 0)
