"""The learning rate as a pure function of the step."""

from __future__ import annotations

import math

from glow.config import OptimizerConfig


def learning_rate(step: int, num_steps: int, config: OptimizerConfig) -> float:
    """Return the learning rate of the step that follows ``step`` finished ones.

    It rises linearly to ``config.lr`` in ``warmup_steps``, then stays, or falls to 0 at ``num_steps``: as half a
    cosine, or along a line.
    """
    warmup = min(1.0, (step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
    if config.schedule == "constant" or step < config.warmup_steps:
        return config.lr * warmup
    progress = min(1.0, (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps))
    if config.schedule == "linear":
        return config.lr * (1 - progress)
    return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
