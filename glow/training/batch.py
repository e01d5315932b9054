"""What the trainer asks of a batch, of images or of anything else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor


class TrainingBatch(Protocol):
    """The arguments of the model's forward, each ``[N, ...]``."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """Arguments of forward."""

    @property
    def skipped(self) -> Sequence[str]:
        """The problem of each example that was replaced by another one."""

    def __len__(self) -> int:
        """Return N."""
