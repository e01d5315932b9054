"""Count arithmetic and memory by running modules on fake tensors, which have shapes but no values."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import get_gradient_edge
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

Run = Callable[..., tuple[Tensor, ...]]


@dataclass(frozen=True)
class Trace:
    """What one forward and one backward pass cost."""

    num_macs: int
    """Multiply-accumulates of the forward pass."""
    kept_bytes: int
    """Memory that the forward pass keeps for the backward pass."""
    peak_bytes: int
    """Peak memory, with arguments, results and their gradients."""


class LiveBytes(TorchDispatchMode):
    """While active, counts the bytes of all storages that operations allocate, until they are freed.

    Args:
        known: Tensors that are not counted.
    """

    def __init__(self, known: Iterable[Tensor]) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._known = [tensor.untyped_storage() for tensor in known]  # keeps them alive, so that their ids stay taken
        self._seen: dict[int, weakref.ref[torch.UntypedStorage] | None] = {id(known): None for known in self._known}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run an operation and count its results."""
        if func is torch.ops.aten._local_scalar_dense.default:
            return True  # A fake tensor has no value. This ends the loop of solve_increasing at its first check.
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor):
                self._count(value.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = id(storage), storage.nbytes()
        if key in self._seen:
            return

        def forget(_: object) -> None:
            del self._seen[key]
            self.live_bytes -= size

        self._seen[key] = weakref.ref(storage, forget)
        self.live_bytes += size
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)


def trace(run: Run, module: nn.Module, leaves: Sequence[Tensor], holds_arguments: bool = False) -> Trace:
    """Count one forward and one backward pass of ``run``. Call this, and create ``leaves``, under FakeTensorMode.

    Parameters, buffers and the gradients of parameters are not counted, because they exist before the pass.

    Args:
        run: The function to count; it maps copies of ``leaves`` to tensors.
        module: The module with the parameters and buffers that ``run`` uses.
        leaves: The arguments.
        holds_arguments: Whether the caller keeps the arguments until the backward pass ends.
    """
    for parameter in module.parameters():
        parameter.grad = torch.zeros_like(parameter)
    known = [*leaves, *module.buffers()]
    for parameter in module.parameters():
        assert parameter.grad is not None
        known += [parameter, parameter.grad]
    with LiveBytes(known) as live:
        # Copies, because the graph keeps its leaves.
        arguments = [leaf.clone() for leaf in leaves]
        with FlopCounterMode(display=False) as counter:
            results = run(*arguments)
        edges = [get_gradient_edge(result) for result in results if result.requires_grad]
        kinds = [(result.shape, result.dtype) for result in results if result.requires_grad]
        del results
        if not holds_arguments:
            del arguments
        kept_bytes = live.live_bytes
        gradients = [torch.zeros(shape, dtype=dtype) for shape, dtype in kinds]
        torch.autograd.backward(edges, gradients)
    return Trace(counter.get_total_flops() // 2, kept_bytes, live.peak_bytes)


@torch.no_grad()
def forward_peak(run: Run, module: nn.Module, leaves: Sequence[Tensor]) -> int:
    """Return the peak memory of a pass without gradients, in bytes, with arguments and results; see ``trace``."""
    with LiveBytes([*leaves, *module.parameters(), *module.buffers()]) as live:
        run(*(leaf.clone() for leaf in leaves))
    return live.peak_bytes
