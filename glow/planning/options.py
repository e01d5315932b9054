"""The ways to train on a number of devices, and the one to recommend."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass

from glow.config import ParallelConfig, TrainRun
from glow.planning.memory import MEMORY_MODES, in_mode, process_memory

# Share of a device that stays free for its driver, the buffers of convolutions, and gaps between tensors.
RESERVE = 0.1
# Pixels that keep a GPU busy: one image of 256x256, 16 of 64x64, 64 of 32x32.
BUSY_PIXELS = 256 * 256
MAX_IMAGES = 2**20
# Processes that share a model or a pipeline by default: those of one machine.
GROUP_SIZE = 8


@dataclass(frozen=True)
class Option:
    """A way to train."""

    parallel: ParallelConfig
    """Layout over processes."""
    memory: str
    """Memory mode."""
    needed_bytes: int
    """Memory of the process that needs most, at the given microbatch."""
    largest: int
    """Images in the largest microbatch that fits, for a batch of any size; 0: none fits."""
    microbatch_size: int
    """Images in a microbatch of this batch: as many as fit, in parts that are as equal as possible; 0: none fits."""
    share: int
    """Images in the largest microbatch that this batch allows."""

    @property
    def layout(self) -> str:
        """Mode, and number of stages or shards."""
        count = self.parallel.stages or self.parallel.shards
        return f"{self.parallel.mode} {count}" if count else self.parallel.mode

    @property
    def arguments(self) -> str:
        """Options of the training stage."""
        parts = [f"--memory {self.memory} --parallel.mode {self.parallel.mode}"]
        parts += [f"--parallel.stages {self.parallel.stages}"] if self.parallel.stages else []
        parts += [f"--parallel.shards {self.parallel.shards}"] if self.parallel.shards else []
        return " ".join([*parts, f"--train.microbatch_size {self.microbatch_size}"])


def options(run: TrainRun, num_processes: int, capacity_bytes: float, images: int) -> list[Option]:
    """Return all ways to train, sorted by communication, then by arithmetic, the least first.

    Args:
        run: The training; its stages and shards are used if it has any.
        num_processes: Processes of the training.
        capacity_bytes: Memory of the device of each process; RESERVE of it stays free.
        images: Microbatch for ``needed_bytes``.
    """
    found = []
    for parallel in _layouts(run.parallel, num_processes, sum(run.model.steps)):
        for memory in MEMORY_MODES:
            candidate = in_mode(run, memory, parallel)
            sizes = microbatch_sizes(candidate, num_processes)
            if not sizes:
                continue
            needs = functools.partial(_most_needed, candidate, num_processes)
            largest = bisect.bisect_right(range(1, MAX_IMAGES), (1 - RESERVE) * capacity_bytes, key=needs)
            found.append(Option(parallel, memory, needs(images), largest, _even_size(sizes, largest), sizes[-1]))
    return found


def recommend(run: TrainRun, ways: Sequence[Option]) -> Option | None:
    """Return the first way whose microbatches keep a GPU busy, else the way with the largest; None if nothing fits.

    A GPU is busy with ``train.microbatch_size`` images if that is given, with BUSY_PIXELS, or with all images of a
    process.
    """
    assert run.model.image_shape is not None
    _, height, width = run.model.image_shape
    wanted = run.train.microbatch_size or math.ceil(BUSY_PIXELS / (height * width))
    fitting = [way for way in ways if way.microbatch_size]
    for way in fitting:
        if way.largest >= min(wanted, way.share):
            return way
    return max(fitting, key=lambda way: way.largest, default=None)


def microbatch_sizes(run: TrainRun, num_processes: int) -> list[int]:
    """Return the possible sizes of microbatches of a run, smallest first."""
    num_stages = run.parallel.stages or 1
    share = math.ceil(run.train.batch_size * num_stages / num_processes)
    if num_stages == 1:
        return list(range(1, share + 1))
    # The microbatches of a pipeline are equal, and there are at least as many as stages.
    return [size for size in range(1, share // num_stages + 1) if share % size == 0]


def _even_size(sizes: Sequence[int], largest: int) -> int:
    """Return the smallest size that needs as few passes as the largest that fits; 0 if none fits."""
    passes = [math.ceil(sizes[-1] / size) for size in sizes if size <= largest]
    return sizes[passes.index(passes[-1])] if passes else 0


def _layouts(given: ParallelConfig, num_processes: int, num_steps: int) -> list[ParallelConfig]:
    """Return the possible layouts over a number of processes, the least communication first."""
    if num_processes == 1:
        return [ParallelConfig(reduce_dtype=given.reduce_dtype)]
    group = next(size for size in range(min(GROUP_SIZE, num_processes), 0, -1) if num_processes % size == 0)
    layouts = [dataclasses.replace(given, mode="ddp", stages=None, shards=None)]
    shards = given.shards or group
    if 1 < shards < num_processes:
        layouts.append(dataclasses.replace(given, mode="hsdp", stages=None, shards=shards))
    layouts.append(dataclasses.replace(given, mode="fsdp", stages=None, shards=None))
    stages = given.stages or group
    if 1 < stages <= num_steps:
        layouts.append(dataclasses.replace(given, mode="pipeline", stages=stages, shards=None))
    return layouts


def _most_needed(run: TrainRun, num_processes: int, images: int) -> int:
    return max(memory.total_bytes for memory in process_memory(run, num_processes, images))
