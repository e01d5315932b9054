"""The whole model, where a process has only a part of it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from accelerate import Accelerator
from torch import Tensor

from glow.models.glow import Glow


def model_of(part: Glow, weights: Mapping[str, Tensor], accelerator: Accelerator) -> Glow | None:
    """Return a model like the one that ``part`` is of, with gathered weights, on the main process; elsewhere None.

    It is on the device of the process, and to be used without gradients.
    """
    if not accelerator.is_main_process:
        return None
    with torch.random.fork_rng(devices=[]):
        model = Glow(part.config).to(accelerator.device, next(part.parameters()).dtype)
    model.load_state_dict(weights)
    return model.eval()
