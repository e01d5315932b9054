"""Tensors of which a process has a shard, and the same tensors whole."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor


def local(tensor: Tensor) -> Tensor:
    """Return what this process has of a tensor: its shard, sharing memory, or all of it."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """Return all of a tensor (a collective, if it is sharded)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def laid_out_like(tensor: Tensor, reference: Tensor) -> Tensor:
    """Return that part of a whole tensor that this process has of ``reference``; nothing is sent."""
    if not isinstance(reference, DTensor):
        return tensor
    device = reference.to_local().device
    return distribute_tensor(tensor.to(device), reference.device_mesh, reference.placements, src_data_rank=None)


def local_gradients(parameters: Iterable[nn.Parameter]) -> list[Tensor]:
    """Return what this process has of the gradients."""
    return [local(parameter.grad) for parameter in parameters if parameter.grad is not None]
