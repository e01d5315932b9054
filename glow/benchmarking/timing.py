"""Time calls that take turns, so that other load on the machine slows all of them alike."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

WARM_UP_CALLS = 2

Call = Callable[[], object]


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of ``count`` measurements."""

    median: float
    low: float
    high: float
    count: int

    @staticmethod
    def of(values: Sequence[float]) -> Spread:
        """Return the spread of one or more values."""
        low, median, high = np.percentile(values, [25, 50, 75]).tolist()
        return Spread(median, low, high, len(values))

    def __str__(self) -> str:
        return f"{self.median:.3g} ({self.low:.3g} to {self.high:.3g})"


def alternate(
    calls: Mapping[str, Call], repeats: int, seconds: float, device: torch.device, progress: Call = lambda: None
) -> dict[str, list[float]]:
    """Call all in turn, A B A B, and return how many seconds each call took, by name.

    Args:
        calls: Calls by name. The first WARM_UP_CALLS of each are not timed.
        repeats: The least number of timed calls of each.
        seconds: The least time of all together.
        device: The device that is waited for after each call.
        progress: Called after each round.
    """
    for _ in range(WARM_UP_CALLS):
        for call in calls.values():
            call()
    taken: dict[str, list[float]] = {name: [] for name in calls}
    start, rounds = time.perf_counter(), 0
    while rounds < repeats or time.perf_counter() - start < seconds:
        for name, call in calls.items():
            taken[name].append(duration(call, device))
        rounds += 1
        progress()
    return taken


def duration(call: Call, device: torch.device) -> float:
    """Return how many seconds a call takes, until the device has done all of it."""
    _wait_for(device)
    start = time.perf_counter()
    call()
    _wait_for(device)
    return time.perf_counter() - start


def ratio(slower: Sequence[float], faster: Sequence[float]) -> Spread:
    """Return the ratios of the times of calls that took turns, one a round."""
    return Spread.of([a / b for a, b in zip(slower, faster, strict=True)])


def rate(seconds: Sequence[float], count: int) -> Spread:
    """Return items a second, given the times of calls that process ``count`` items each."""
    return Spread.of([count / each for each in seconds])


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
