"""Processes that share the items of a data set, without a training: each computes its part, and all are gathered."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import PartialState

from glow.console import track
from glow.data.read.batch import Share

Result = TypeVar("Result")

TIMEOUT = timedelta(hours=4)  # processes on slower machines are waited for


class Processes:
    """The processes that a launcher started; one process without a launcher.

    Attributes:
        device: The device of this process.
        share: Which of the processes this is.
        is_main: Whether this is process 0.
    """

    def __init__(self) -> None:
        # Not an Accelerator: it would want the precision of an earlier one in this process.
        state = PartialState(cpu=not torch.cuda.is_available(), timeout=TIMEOUT)
        self.device: torch.device = state.device
        self.share = Share(state.process_index, state.num_processes)
        self.is_main: bool = state.is_main_process

    def gather(self, results: Iterable[Result], title: str, num_images: int) -> list[Result]:
        """Compute the results of this process's share; return those of all images in order on process 0, nothing on
        others (a collective).

        Args:
            results: Of this process's share, in order.
            title: Of the progress, which process 0 shows.
            num_images: Images of all shares.
        """
        total = len(self.share.slots(num_images))
        return self.collect(list(track(results, total, "image", title, is_shown=self.is_main)))

    def collect(self, results: list[Result]) -> list[Result]:
        """Return the results of all processes in order on process 0, nothing on others (a collective)."""
        if self.share.num_processes == 1:
            return results
        parts: list[list[Result]] | None = [[]] * self.share.num_processes if self.is_main else None
        dist.gather_object(results, parts)
        return [result for part in parts or [] for result in part]
