"""Processes agree: they compare what they are about to do, or follow the main process."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
import torch.distributed as dist
from accelerate import Accelerator, PartialState
from accelerate.utils import broadcast_object_list, gather_object, reduce
from torch import Tensor

from glow.parallel.tensors import buckets

Decision = TypeVar("Decision")


def check_agreement(facts: Mapping[str, object]) -> None:
    """Check that all processes have the same facts (a collective).

    Raises:
        ValueError: on all processes; names a process that differs from process 0, and the fact.
    """
    main = broadcast_object_list([dict(facts)])[0]
    problem = None
    for name in sorted(main.keys() | facts.keys()):
        if main.get(name) != facts.get(name):
            problem = f"another {name} than process 0: {facts.get(name)}, not {main.get(name)}"
            break
    if reduce(torch.tensor(float(problem is not None), device=PartialState().device)):
        rank, problem = first_given(None if problem is None else (PartialState().process_index, problem)) or (0, "")
        raise ValueError(f"process {rank} has {problem}")


def decided_by_main(decide: Callable[[], Decision], accelerator: Accelerator) -> Decision:
    """Let the main process decide, and return its decision on all processes (a collective).

    File systems of clusters do not show the same to all nodes at once, and a thousand processes that ask for the same
    are a load.

    Raises:
        ValueError, OSError: on all processes, when ``decide`` raises one on the main process.
    """
    outcome: tuple[Decision | None, Exception | None] = None, None
    if accelerator.is_main_process:
        try:
            outcome = decide(), None
        except (ValueError, OSError) as error:
            outcome = None, error
    decision, problem = broadcast_object_list([outcome])[0]
    if problem is not None:
        raise problem
    return decision


def read_by_main(read: Callable[[], Mapping[str, Tensor]], accelerator: Accelerator) -> dict[str, Tensor]:
    """Let the main process read tensors, and return them on all processes (a collective).

    They lie in host memory: a device need not hold the whole state of a model that is sharded.

    Raises:
        ValueError, OSError: on all processes, when ``read`` raises one on the main process.
    """
    tensors: Mapping[str, Tensor] = {}

    def forms() -> dict[str, tuple[torch.Size, torch.dtype]]:
        nonlocal tensors
        tensors = read()
        return {name: (tensor.shape, tensor.dtype) for name, tensor in tensors.items()}

    expected = decided_by_main(forms, accelerator)
    if accelerator.num_processes == 1:
        return dict(tensors)
    received: dict[str, Tensor] = {}
    sizes = {name: shape.numel() * dtype.itemsize for name, (shape, dtype) in expected.items()}
    for names in buckets(sizes):
        bucket = torch.empty(sum(sizes[name] for name in names), dtype=torch.uint8, device=accelerator.device)
        parts = dict(zip(names, bucket.split([sizes[name] for name in names]), strict=True))
        for name in names if accelerator.is_main_process else []:
            parts[name].copy_(tensors[name].contiguous().reshape(-1).view(torch.uint8))
        dist.broadcast(bucket, 0)
        for name in [] if accelerator.is_main_process else names:
            shape, dtype = expected[name]
            received[name] = parts[name].to("cpu", copy=True).view(dtype).view(shape)
    return dict(tensors) if accelerator.is_main_process else received


def first_given(value: Decision | None) -> Decision | None:
    """Return what the first process has that has not None (a collective)."""
    return next((theirs for theirs in gather_object([value]) if theirs is not None), None)
