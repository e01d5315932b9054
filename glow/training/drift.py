"""The drift of reversible memory: how far rebuilt states are from the real ones."""

from __future__ import annotations

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from glow.config import TrainRun
from glow.execution.memory import drift_of

MAX_DRIFT, MAX_DRIFT_IN_HALF = 1e-3, 0.1


class Drift:
    """The drift of a model during its training, and the bound on it."""

    def __init__(self, model: nn.Module, run: TrainRun, accelerator: Accelerator) -> None:
        self.model = model
        self.accelerator = accelerator
        self.is_measured = run.memory == "reversible"
        self.bound = run.max_drift or (MAX_DRIFT if accelerator.mixed_precision == "no" else MAX_DRIFT_IN_HALF)

    def exceeds_bound(self) -> Tensor:
        """Return 1 or 0, a float64 scalar on the device: whether this process exceeded the bound."""
        drift = drift_of(self.model)
        if drift is None:
            return torch.zeros((), dtype=torch.float64, device=self.accelerator.device)
        return (~(drift <= self.bound)).double()

    def largest(self) -> float:
        """Return the largest drift of all processes since the last call (a collective)."""
        return float(self.accelerator.gather(drift_of(self.model, reset=True)).max())

    def metrics(self) -> dict[str, float]:
        """Return the largest drift since the last line of the log (a collective)."""
        return {"memory/drift": self.largest()} if self.is_measured else {}

    def problem(self) -> str:
        """Describe a drift beyond the bound (a collective)."""
        return (
            f"memory reversible rebuilt a state that is {self.largest():.1e} away from the real one, more than "
            f"max_drift {self.bound} allows; nothing was updated. A lower anchor_every or memory checkpoint may help"
        )
