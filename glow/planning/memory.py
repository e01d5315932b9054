"""Predict the memory of the processes of a training."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from glow.config import ParallelConfig, TrainRun
from glow.cost.units import UnitCost, cut, unit_costs
from glow.execution.precision import NETWORK_DTYPES

MEMORY_MODES = ("stored", "checkpoint", "reversible")
# Arithmetic of a step in forward passes: one forward, two for backward, one more if networks are computed again.
FORWARD_PASSES = {"stored": 3, "checkpoint": 4, "reversible": 4}
NUM_MOMENTS = {"adam": 2, "adamw": 2, "adamax": 2, "muon": 2, "sgd": 1}
# Optimisers that are not fused copy the gradients; on GPUs, all at the same time.
NUM_GRADIENT_COPIES = {"adam": 0, "adamw": 0, "adamax": 1, "muon": 3, "sgd": 1}
# Of the step that is gathered and of the next one: the weights and their receive buffer; and the same of the gradient.
NUM_GATHERED = 6


@dataclass(frozen=True)
class ProcessMemory:
    """Memory of one process, in bytes: the parts of it at the peak of a step, and at the peak of the start."""

    units: range
    """Units of the chain that the process computes."""
    num_parameters: int
    """Parameters of these units."""
    num_macs: int
    """Multiply-accumulates of these units: one forward pass of one image."""
    weight_bytes: int
    """Parameters and buffers."""
    gradient_bytes: int
    """Gradients."""
    optimizer_bytes: int
    """State of the optimiser."""
    ema_bytes: int
    """Averaged weights."""
    communication_bytes: int
    """Buffers of the exchange between processes."""
    kept_bytes: int
    """Tensors that forward passes keep for backward passes."""
    working_bytes: int
    """Further memory in the middle of a pass, or in the optimiser."""
    waiting_bytes: int
    """Images of a step that wait for their microbatch."""
    start_bytes: int
    """All memory at the start: the whole model, which is not divided yet, and the initialisation of its ActNorms."""

    @property
    def step_bytes(self) -> int:
        """All memory of a step."""
        names = (field.name for field in dataclasses.fields(self))
        return sum(getattr(self, name) for name in names if name.endswith("_bytes") and name != "start_bytes")

    @property
    def total_bytes(self) -> int:
        """Memory at the peak, of a step or of the start."""
        return max(self.step_bytes, self.start_bytes)


def process_memory(run: TrainRun, num_processes: int, images: int, device_type: str = "cuda") -> list[ProcessMemory]:
    """Return the memory of a process of each pipeline stage; in other modes a list of one, because all are alike.

    Args:
        run: The training, with the shape of the images and the number of classes.
        num_processes: Processes of the training.
        images: Microbatch: images that a process computes at once.
        device_type: Type of the device; on cpu the optimiser updates the parameters one by one.

    Raises:
        ValueError: when the model cannot be laid over this number of processes.
    """
    config = run.parallel
    if num_processes % (config.stages or config.shards or 1):
        name = "stages" if config.stages else "shards"
        raise ValueError(
            f"parallel.{name}: {getattr(config, name)}, but {num_processes} processes are not a multiple of it"
        )
    costs = _costs(run, device_type)
    if config.mode != "pipeline":
        return [_memory(run, costs, range(len(costs)), _Part(num_processes, images, device_type))]
    assert config.stages is not None
    pipelines = num_processes // config.stages
    num_microbatches = math.ceil(run.train.batch_size / (pipelines * images))
    # 1F1B: in stage s of S, forward passes are S - s microbatches ahead of backward passes.
    return [
        _memory(run, costs, units, _Part(pipelines, images, device_type, config.stages - number, num_microbatches))
        for number, units in enumerate(_stages(costs, config.stages))
    ]


def describe_stages(stages: Sequence[ProcessMemory]) -> str:
    """Return a table of the processes of a pipeline, or of any process of another layout."""
    total = sum(stage.num_macs for stage in stages)
    lines = [f"  {'stage':8}{'units':>12}{'M parameters':>16}{'% of arithmetic':>18}{'GiB a process':>16}"]
    for number, stage in enumerate(stages):
        units = f"{stage.units.start}-{stage.units.stop - 1}"
        share, gib = f"{100 * stage.num_macs / total:.1f}", f"{stage.total_bytes / 2**30:.2f}"
        lines.append(f"  {number:<8}{units:>12}{stage.num_parameters / 1e6:>16.3f}{share:>18}{gib:>16}")
    return "\n".join(lines)


def in_mode(run: TrainRun, memory: str, parallel: ParallelConfig | None = None) -> TrainRun:
    """Return the run in another memory mode and layout; None: ddp."""
    changes: dict[str, Any] = {"memory": memory, "parallel": parallel or ParallelConfig()}
    return dataclasses.replace(run, **changes)


@dataclass(frozen=True)
class _Part:
    """The work of one process."""

    num_replicas: int
    """Processes with the same units, or with shards of them: each has its part of a batch."""
    images: int
    """Microbatch."""
    device_type: str
    """Type of its device."""
    in_flight: int = 1
    """Microbatches that wait for their backward pass."""
    num_microbatches: int = 1
    """Microbatches of a step."""


def _memory(run: TrainRun, costs: Sequence[UnitCost], units: range, part: _Part) -> ProcessMemory:
    own = [costs[index] for index in units]
    num_parameters = sum(cost.num_parameters for cost in own)
    num_held = num_parameters // _num_shards(run.parallel, part.num_replicas)
    kept = [part.images * cost.kept_bytes + cost.kept_weight_bytes for cost in own]
    ahead = (part.in_flight - 1) * sum(kept)
    share = math.ceil(run.train.batch_size / part.num_replicas)
    # The first stage keeps the images that are on their way through the pipeline.
    num_waiting = max(0, share - (part.images * part.in_flight if units.start == 0 else 0))
    peak = max(
        kept_until + part.images * cost.working_bytes + cost.working_weight_bytes
        for kept_until, cost in zip(itertools.accumulate(kept), own, strict=True)
    )
    optimizer = run.optimizer
    num_copies = NUM_GRADIENT_COPIES[optimizer.name] if part.device_type == "cuda" else 0
    # When the optimiser works, nothing is kept any more.
    most = max(ahead + peak, 4 * num_held * num_copies)
    return ProcessMemory(
        units=units,
        num_parameters=num_parameters,
        num_macs=sum(cost.num_macs for cost in own),
        weight_bytes=4 * (num_held + sum(cost.num_buffers for cost in own)),
        gradient_bytes=4 * num_held,
        optimizer_bytes=4 * num_held * NUM_MOMENTS[optimizer.name],
        ema_bytes=4 * num_held,
        communication_bytes=_communication_bytes(run.parallel, costs, units, part),
        kept_bytes=ahead + sum(kept),
        working_bytes=most - ahead - sum(kept),
        waiting_bytes=num_waiting * costs[0].state_bytes,
        start_bytes=_start_bytes(
            costs, part.images, max(share, math.ceil((run.train.whitening_images or 0) / part.num_replicas))
        ),
    )


def _start_bytes(costs: Sequence[UnitCost], images: int, share: int) -> int:
    """Return the memory of the whole model while it is initialised, one unit after the other for all images."""
    model = sum(4 * (cost.num_parameters + cost.num_buffers) for cost in costs)
    # The states of all images wait; the images themselves are in host memory, unless one microbatch has all.
    waiting = share * (costs[1].state_bytes if images < share else costs[0].state_bytes)
    return model + waiting + max(min(images, share) * cost.initial_bytes + cost.initial_weight_bytes for cost in costs)


def _communication_bytes(parallel: ParallelConfig, costs: Sequence[UnitCost], units: range, part: _Part) -> int:
    own = [costs[index] for index in units]
    if parallel.mode in ("fsdp", "hsdp"):
        return 4 * NUM_GATHERED * max(cost.num_parameters for cost in own) if part.num_replicas > 1 else 0
    # A flat copy of all gradients, and for all microbatches the states at both ends of a stage.
    gradients = 4 * sum(cost.num_parameters for cost in own) if part.num_replicas > 1 else 0
    ends = [costs[index].state_bytes for index in (units.start, units.stop) if 0 < index < len(costs)]
    return gradients + (part.num_microbatches + 1) * part.images * sum(ends)


def _num_shards(parallel: ParallelConfig, num_replicas: int) -> int:
    if parallel.mode == "hsdp":
        assert parallel.shards is not None
        return parallel.shards
    return num_replicas if parallel.mode == "fsdp" else 1


def _costs(run: TrainRun, device_type: str) -> tuple[UnitCost, ...]:
    dtype = NETWORK_DTYPES[run.train.mixed_precision or "no"] or torch.float32
    return tuple(unit_costs(run.model, run.memory, run.anchor_every or None, dtype, device_type))


@functools.lru_cache(maxsize=64)
def _stages(costs: tuple[UnitCost, ...], num_stages: int) -> list[range]:
    return cut(costs, num_stages)
