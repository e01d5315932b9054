"""The whole model, built from gathered weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from glow.models.glow import Glow


def model_of(part: Glow, weights: Mapping[str, Tensor], accelerator: Accelerator) -> Glow | None:
    """Return the whole model on the main process; None on others.

    Args:
        part: The part of the model that this process holds.
        weights: The weights of the whole model, by name.
        accelerator: Of this process, on whose device the model will be. Use it without gradients.
    """
    if not accelerator.is_main_process:
        return None
    with torch.random.fork_rng(devices=[]):
        model = Glow(part.config).to(accelerator.device, next(part.parameters()).dtype)
    model.load_state_dict(weights)
    return model.eval()
