"""Sharded tensors: the shard of a process, and the whole tensor."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

BUCKET_BYTES = 2**26  # sent at once


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, sharing memory; all of an unsharded tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return a tensor of the host on a device. The host does not wait for the copy."""
    # Only memory that cannot be swapped out is copied without the host.
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def whole_tensors(tensors: Mapping[str, Tensor], group: dist.ProcessGroup) -> dict[str, Tensor]:
    """Return whole tensors in host memory of process 0, nothing on others (a collective of its group).

    Shards are parts of the first dimension, as ``fully_shard`` makes them. Many tensors travel at once, as bytes: for a
    collective each, a model of the paper has thousands too many.

    Args:
        tensors: By name, sharded or not.
        group: The processes that hold the shards, process 0 among them.
    """
    is_main = dist.get_rank() == 0
    plain = {name: tensor for name, tensor in tensors.items() if not isinstance(tensor, DTensor)}
    gathered = {name: tensor.detach().to("cpu", copy=True) for name, tensor in plain.items() if is_main}
    sharded = {name: tensor for name, tensor in tensors.items() if isinstance(tensor, DTensor)}
    for names in buckets({name: tensor.numel() * tensor.itemsize for name, tensor in sharded.items()}):
        _gather([(name, sharded[name]) for name in names], group, gathered if is_main else None)
    return {name: gathered[name] for name in tensors} if is_main else {}


def _gather(sharded: Sequence[tuple[str, DTensor]], group: dist.ProcessGroup, into: dict[str, Tensor] | None) -> None:
    """Gather some tensors in one collective."""
    world = dist.get_world_size(group)
    # Every process has as many rows of a tensor, but for the last ones with rows.
    rows = [math.ceil(tensor.shape[0] / world) for _, tensor in sharded]
    row_bytes = [tensor[:1].numel() * tensor.itemsize for _, tensor in sharded]
    sizes = [count * size for count, size in zip(rows, row_bytes, strict=True)]
    mine = torch.zeros(sum(sizes), dtype=torch.uint8, device=sharded[0][1].device)
    for part, (_, tensor) in zip(mine.split(sizes), sharded, strict=True):
        own = tensor.to_local().contiguous().reshape(-1).view(torch.uint8)
        part[: len(own)].copy_(own)
    everyone = [torch.empty_like(mine) for _ in range(world)] if into is not None else None
    dist.gather(mine, everyone, 0, group)
    if into is None or everyone is None:
        return
    parts = [received.cpu().split(sizes) for received in everyone]
    for number, (name, tensor) in enumerate(sharded):
        together = torch.cat([part[number] for part in parts])[: tensor.numel() * tensor.itemsize]
        into[name] = together.view(tensor.dtype).view(tensor.shape)


def buckets(sizes: Mapping[str, int]) -> Iterator[list[str]]:
    """Cut names into runs of about ``BUCKET_BYTES``, given the bytes of each."""
    names: list[str] = []
    total = 0
    for name, size in sizes.items():
        names.append(name)
        total += size
        if total >= BUCKET_BYTES:
            yield names
            names, total = [], 0
    if names:
        yield names


def laid_out_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, sharded as ``reference`` is. Nothing is sent."""
    if not isinstance(reference, DTensor):
        return tensor
    device = reference.to_local().device
    return distribute_tensor(tensor.to(device), reference.device_mesh, reference.placements, src_data_rank=None)


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return this process's shards of the gradients; whole gradients of unsharded parameters."""
    return [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
