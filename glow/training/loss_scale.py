"""Scaling of the loss, so that small gradients inside float16 networks do not become 0."""

from __future__ import annotations

from collections.abc import Mapping

FIRST_SCALE = 2.0**16
SMALLEST_SCALE = 1.0
GROWTH_INTERVAL = 2000


class LossScale:
    """A power of two that is halved when gradients overflow, and doubled after many steps without.

    Whether they did is decided by the norm of the whole gradient, which all processes know, however the model is laid
    over them: torch's GradScaler looks at what one process has.

    Source: Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2.
    """

    def __init__(self) -> None:
        self.scale = FIRST_SCALE
        self.steps_since_change = 0

    def update(self, is_finite: bool) -> None:
        """Take in whether the gradients of a step were finite."""
        self.steps_since_change += 1
        if not is_finite:
            self.scale, self.steps_since_change = self.scale / 2, 0
        elif self.steps_since_change == GROWTH_INTERVAL:
            self.scale, self.steps_since_change = self.scale * 2, 0

    @property
    def is_collapsed(self) -> bool:
        """Whether not even very small scales gave finite gradients."""
        return self.scale < SMALLEST_SCALE

    def state_dict(self) -> dict[str, float]:
        """Return what resuming needs."""
        return {"scale": self.scale, "steps_since_change": self.steps_since_change}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.scale, self.steps_since_change = state["scale"], int(state["steps_since_change"])
