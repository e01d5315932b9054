"""Sharded tensors: the shard of a process, and the whole tensor."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """Return this process's shard of a tensor, sharing memory; all of an unsharded tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return the whole tensor (a collective, if it is sharded)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Return this process's part of a whole tensor, sharded as ``reference`` is. Nothing is sent."""
    if not isinstance(reference, DTensor):
        return tensor
    device = reference.to_local().device
    return distribute_tensor(tensor.to(device), reference.device_mesh, reference.placements, src_data_rank=None)


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return this process's shards of the gradients; whole gradients of unsharded parameters."""
    return [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
