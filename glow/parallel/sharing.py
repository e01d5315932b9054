"""Processes that share the items of a data set, without a training: each computes its part, and all are gathered."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from glow.console import track
from glow.data.read.batch import Share

Result = TypeVar("Result")


class Processes:
    """The processes that a launcher started; one process without a launcher.

    Attributes:
        device: The device of this process.
        share: Which of the processes this is.
        is_main: Whether this is process 0.
    """

    def __init__(self) -> None:
        accelerator = Accelerator(cpu=not torch.cuda.is_available(), mixed_precision="no")
        self.device: torch.device = accelerator.device
        self.share = Share(accelerator.process_index, accelerator.num_processes)
        self.is_main: bool = accelerator.is_main_process

    def gather(self, results: Iterable[Result], title: str, num_images: int) -> list[Result]:
        """Compute the results of this process's share, and return those of all images in order; collective.

        Args:
            results: Of this process's share, in order.
            title: Of the progress, which process 0 shows.
            num_images: Images of all shares.
        """
        total = len(self.share.slots(num_images))
        return gather_object(list(track(results, total, "image", title, is_shown=self.is_main)))
