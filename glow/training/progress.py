"""Losses and speed of the steps since the last line of the log."""

from __future__ import annotations

import resource

import torch
from accelerate import Accelerator


class Progress:
    """Adds up steps, and gives their mean loss and their speed at each line of the log.

    Attributes:
        losses: In bits/dim. After a resume they include the steps before it.
    """

    def __init__(self, accelerator: Accelerator, batch_size: int) -> None:
        self.losses: list[float] = []
        self._accelerator = accelerator
        self._batch_size = batch_size
        self._restart_clock()

    def add(self, loss: float, waited_s: float, busy_s: float) -> None:
        """Take in a step: its loss, its wait for data, and its whole time."""
        self.losses.append(loss)
        self._num_timed += 1
        self._waited_s += waited_s
        self._busy_s += busy_s

    def mean_loss(self) -> float:
        """Return the mean loss since the last call."""
        mean = sum(self.losses) / len(self.losses)
        self.losses = []
        return mean

    def speed(self) -> dict[str, float]:
        """Return throughput, times a step and memory since the last call (a collective).

        The wait for data is that of the slowest reader.
        """
        waited_s = torch.tensor([self._waited_s], device=self._accelerator.device)
        longest_wait_s = float(self._accelerator.gather(waited_s).max())
        steps, busy_s = self._num_timed, self._busy_s
        self._restart_clock()
        images_per_s = steps * self._batch_size / busy_s
        return {
            "train/images_per_s": images_per_s,
            "train/images_per_process_per_s": images_per_s / self._accelerator.num_processes,
            "train/step_s": busy_s / steps,
            "train/data_wait_s": longest_wait_s / steps,
            "train/data_wait_s_per_s": longest_wait_s / busy_s,
            "train/peak_memory_bytes": peak_memory_bytes(),
        }

    def _restart_clock(self) -> None:
        self._num_timed, self._waited_s, self._busy_s = 0, 0.0, 0.0


def peak_memory_bytes() -> int:
    """Return the most memory in use so far: of the GPU, or of the process where there is no GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
