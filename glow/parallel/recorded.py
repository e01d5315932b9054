"""The whole model in every process, on GPUs: forward and backward pass are replayed as one CUDA graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from accelerate import Accelerator
from torch import Tensor, nn

from glow.execution.graphs import CudaGraphs
from glow.parallel.layout import Whole, microbatches
from glow.parallel.placement import Placement

Function = Callable[..., Sequence[Any]]


class Recorded(Whole):
    """The whole model in every process; the gradients of a microbatch are one recorded function.

    After the last microbatch, gradients are added up over processes, all at once. The values are those of
    ``Replicated``, up to the order of additions.

    Args:
        model: The model, initialised.
        placement: Place of this process.
        accelerator: Of this process.
        reduce_dtype: Name of the dtype in which gradients are added up over processes.
        record: Turns a function of tensors into one that is recorded.
    """

    def __init__(
        self,
        model: nn.Module,
        placement: Placement,
        accelerator: Accelerator,
        reduce_dtype: str = "float32",
        record: Callable[[Function], Function] = CudaGraphs,
    ) -> None:
        super().__init__(model, placement, accelerator)
        self._parameters = list(model.parameters())
        self._reduce_dtype = getattr(torch, reduce_dtype)
        self._gradients = record(self._compute_gradients)

    def backward(self, inputs: Sequence[Tensor], microbatch_size: int, scale: float) -> Tensor:
        """Set the gradients, one microbatch at a time."""
        device = inputs[0].device
        total = torch.zeros((), dtype=torch.float64, device=device)
        factor = torch.full((), scale, device=device)
        gradients: list[Tensor] = []
        for microbatch, is_last in microbatches(inputs, microbatch_size):
            scaled, *new = self._gradients(factor, *microbatch)
            total += scaled
            present = [gradient for gradient in new if gradient is not None]
            if gradients:
                torch._foreach_add_(gradients, present)
            else:  # the next replay overwrites them
                gradients = present if is_last else [gradient.clone() for gradient in present]
        if self.num_copies > 1:
            add_over_processes(gradients, self._reduce_dtype)
        remaining = iter(gradients)
        for parameter, gradient in zip(self._parameters, new, strict=True):
            parameter.grad = None if gradient is None else next(remaining)
        return total

    def _compute_gradients(self, factor: Tensor, *inputs: Tensor) -> list[Tensor | None]:
        """Return ``factor`` times the summed log-probability, and its gradient for each parameter."""
        for parameter in self._parameters:
            parameter.grad = None
        scaled = factor * self.model(*inputs).sum()
        scaled.backward()  # unlike autograd.grad it returns gradients in the memory layout of their parameters
        return [scaled.detach(), *(parameter.grad for parameter in self._parameters)]


def add_over_processes(tensors: Sequence[Tensor], dtype: torch.dtype) -> None:
    """Replace tensors by their sums over all processes, in one reduction of this dtype (a collective)."""
    flat = torch.cat([tensor.flatten() for tensor in tensors]).to(dtype)
    dist.all_reduce(flat)
    parts = flat.to(tensors[0].dtype).split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(list(tensors), [part.view_as(tensor) for part, tensor in zip(parts, tensors, strict=True)])
