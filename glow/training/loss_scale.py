"""Scaling of the loss: without it, small gradients inside float16 networks would become 0."""

from __future__ import annotations

from collections.abc import Mapping

FIRST_SCALE = 2.0**16
SMALLEST_SCALE = 1.0
GROWTH_INTERVAL = 2000


class LossScale:
    """A power of two: halved when gradients overflow, doubled after many steps without an overflow.

    The norm of the whole gradient decides, which all processes know in every layout. torch's GradScaler looks only at
    the gradients of its own process.

    Source: Micikevicius et al. 2018 (arXiv 1710.03740), section 3.2.
    """

    def __init__(self) -> None:
        self.scale = FIRST_SCALE
        self.steps_since_change = 0

    def update(self, is_finite: bool) -> None:
        """Adapt the scale to a step, whose gradients were finite or not."""
        self.steps_since_change += 1
        if not is_finite:
            self.scale, self.steps_since_change = self.scale / 2, 0
        elif self.steps_since_change == GROWTH_INTERVAL:
            self.scale, self.steps_since_change = self.scale * 2, 0

    @property
    def is_collapsed(self) -> bool:
        """Whether the scale fell below the smallest that is allowed."""
        return self.scale < SMALLEST_SCALE

    def state_dict(self) -> dict[str, float]:
        """Return what resuming needs."""
        return {"scale": self.scale, "steps_since_change": self.steps_since_change}

    def load_state_dict(self, state: Mapping[str, float]) -> None:
        """Go on from what ``state_dict`` returned."""
        self.scale, self.steps_since_change = state["scale"], int(state["steps_since_change"])
