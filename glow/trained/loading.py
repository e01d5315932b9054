"""From a run to the object that is used in Python."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from glow.execution.precision import use_exact_float32
from glow.trained.images import TrainedGlow
from glow.training.checkpoints.manager import find_checkpoint
from glow.training.checkpoints.models import load_flow, load_model
from glow.training.checkpoints.reading import read_config, read_state

if TYPE_CHECKING:
    from glow.trained.vectors import TrainedFlow


def load(
    run: str | Path,
    *,
    which: Literal["latest", "best"] = "latest",
    weights: Literal["ema", "raw"] = "ema",
    device: str | torch.device | None = None,
) -> TrainedGlow | TrainedFlow:
    """Load a trained model: a ``TrainedGlow`` for a run on images, a ``TrainedFlow`` for a run on vectors or a target.

    The object needs the checkpoint alone, not the data. It turns TF32 off for the whole process, as the stages do:
    with TF32 the numbers on a GPU would not be theirs.

    Args:
        run: ``runs/NAME``, or one of its checkpoints, ``runs/NAME/checkpoints/step-N``; the folder of an exported
            model, or ``hf://USER/NAME[@REVISION]`` for one on the Hugging Face Hub; or ``digits``, a small model that
            comes with glow.
        which: Of a run, the latest checkpoint, or the one with the best validation bits/dim.
        weights: The averaged weights, or the raw ones.
        device: Where the model computes. Default: the GPU if there is one, else the CPU.

    Raises:
        ValueError: when there is no such checkpoint, or it is damaged, or an option is not one of these.
    """
    for name, value, allowed in (("which", which, ("latest", "best")), ("weights", weights, ("ema", "raw"))):
        if value not in allowed:
            raise ValueError(f"{name}: {value!r}; allowed are {' and '.join(map(repr, allowed))}")
    device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device: {device}, but torch finds no GPU here; give 'cpu', or leave it out")
    use_exact_float32()
    checkpoint = find_checkpoint(run, which, weights)
    if read_config(checkpoint).is_of_vectors:
        from glow.trained.vectors import TrainedFlow  # it imports Matplotlib, for half a second

        return TrainedFlow(load_flow(checkpoint, weights=weights).to(device))
    return TrainedGlow(load_model(checkpoint, weights=weights).to(device), read_state(checkpoint).classes)
