"""The highest speed of a device, measured: products of matrices, and copies of memory."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from glow.benchmarking.timing import duration

# Sizes of square matrices, and bytes of the copied tensor, by type of device; the tensor is larger than all caches.
MATRIX_SIZES = {"cpu": (512, 1024, 2048), "cuda": (2048, 4096, 8192)}
COPIED_BYTES = {"cpu": 2**28, "cuda": 2**30}
CALLS = 4
LONGEST_CALL_S = 1.0  # larger matrices are left out: some processors are slow in some dtypes


@dataclass(frozen=True)
class Work:
    """The least work of a call: floating-point operations, and bytes read or written."""

    flops: float
    num_bytes: float


class Limits:
    """The highest measured rates; ``measure`` them at several times, because other programs may slow a machine down.

    Args:
        device: The device.
        dtype: Of the matrices; products of float32 are added up in float32.
    """

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device = device
        self.dtype = dtype
        self.flops_per_s = 0.0
        self.bytes_per_s = 0.0

    def measure(self) -> None:
        """Multiply and copy, and keep the rates if they are higher than before."""
        for size in MATRIX_SIZES[self.device.type]:
            a, b = (torch.rand(size, size, device=self.device).to(self.dtype) for _ in range(2))
            out = torch.empty_like(a)
            least_s = min(duration(partial(torch.mm, a, b, out=out), self.device) for _ in range(CALLS))
            self.flops_per_s = max(self.flops_per_s, 2 * size**3 / least_s)
            if least_s > LONGEST_CALL_S / 8:  # the next size takes eight times as long
                break
        source = torch.ones(COPIED_BYTES[self.device.type], dtype=torch.uint8, device=self.device)
        target = torch.zeros_like(source)
        least_s = min(duration(partial(target.copy_, source), self.device) for _ in range(CALLS))
        self.bytes_per_s = max(self.bytes_per_s, 2 * len(source) / least_s)

    def least_seconds(self, work: Work) -> float:
        """Return the least time of the work on this device: that of the arithmetic or that of the memory."""
        return max(work.flops / self.flops_per_s, work.num_bytes / self.bytes_per_s)

    def describe(self) -> dict[str, float | str]:
        """Return the rates, by name."""
        return {"dtype": str(self.dtype), "flops_per_s": self.flops_per_s, "bytes_per_s": self.bytes_per_s}


def describe_machine() -> dict[str, object]:
    """Return the processor, the threads that torch uses, and the load of the last 1, 5 and 15 minutes."""
    return {"cpu": _cpu(), "num_threads": torch.get_num_threads(), "load_average": os.getloadavg()}


def _cpu() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
