"""The models in checkpoints: built from the configuration, with the saved weights."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from glow.models.flow import Flow, build_flow
from glow.models.glow import Glow
from glow.training.checkpoints.manager import find_checkpoint
from glow.training.checkpoints.reading import read_config, read_tensors


def load_model(path: str | Path, which: str = "latest", weights: str = "ema") -> Glow:
    """Build the Glow of a checkpoint and load its weights; the checkpoint alone is needed.

    Args:
        path: ``runs/NAME`` or ``runs/NAME/checkpoints/step-N``.
        which: ``latest`` or ``best`` of a run directory.
        weights: ``ema`` (averaged) or ``raw`` (last).

    Raises:
        ValueError: when there is no such checkpoint, it is damaged, or its model is a flow of vectors.
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
        ValueError: when there is no such checkpoint, it is damaged, or its model is a Glow of images.
    """
    checkpoint = find_checkpoint(path, which)
    run = read_config(checkpoint)
    if not run.is_of_vectors:
        raise ValueError(f"{checkpoint}: a Glow of images, not a flow of vectors")
    flow = build_flow(run.flow)
    tensors = _read_weights(checkpoint, weights)
    if run.target.source:  # the bound was trained, and the flow is a part of it
        tensors = {name.removeprefix("flow."): tensor for name, tensor in tensors.items()}
    load_weights(flow, tensors, checkpoint)
    return flow.eval()


def load_weights(model: nn.Module, tensors: Mapping[str, Tensor], checkpoint: Path) -> None:
    """Load a state dict.

    Raises:
        ValueError: when a tensor is missing, unknown, or of another shape.
    """
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{checkpoint}: its weights do not fit its model: {error}") from error


def _read_weights(checkpoint: Path, weights: str) -> dict[str, Tensor]:
    return read_tensors(checkpoint, "model" if weights == "raw" else "ema")
