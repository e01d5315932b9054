"""What training asks of a model, however it is laid over processes; and the plain way, a whole copy in each."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from glow.parallel.placement import Placement

Item = TypeVar("Item")

COMPRESS_HOOKS = {"float16": default_hooks.fp16_compress_hook, "bfloat16": default_hooks.bf16_compress_hook}


class Layout(Protocol):
    """A model laid over processes. What is called a collective is called by all of them, in the same order.

    Attributes:
        model: What this process has of the model: its own ``state_dict`` has the names of the whole model, but where
            another process has them instead.
        placement: Of this process.
        num_copies: Processes that have the same gradient after ``backward``, each of it or of its shard.
    """

    placement: Placement
    num_copies: int

    @property
    def model(self) -> nn.Module:
        """Part of the model."""

    def backward(self, inputs: Sequence[Tensor], microbatch_size: int, scale: float) -> Tensor:
        """Add to the gradients that of ``scale`` times the sum of log-probabilities over all processes (a collective).

        Args:
            inputs: Arguments of the model's forward: this process's part of the global batch, on its device.
            microbatch_size: Examples that are held at once.
            scale: Of the loss.

        Returns:
            This process's part of the scaled sum, a float64 scalar on the device.
        """

    def log_prob(self, inputs: Sequence[Tensor]) -> Tensor | None:
        """Return the log-probabilities ``[N]`` (a collective), or None where another process knows them."""

    def in_step(self, batches: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield batches with True, and after the last of them the last again, with False, as long as others have some.

        Some layouts need all processes to take part in every one (a collective then).
        """

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors, by name, in host memory of the main process; elsewhere nothing (a collective)."""

    def whole_model(self) -> nn.Module | None:
        """Return the whole model, with the current weights, on the main process; None elsewhere (a collective)."""


class Replicated:
    """Every process has the whole model, and all get the same gradients: DistributedDataParallel, or a process
    alone.
    """

    def __init__(
        self, model: nn.Module, placement: Placement, accelerator: Accelerator, reduce_dtype: str = "float32"
    ) -> None:
        self.model = model
        self.placement = placement
        self.num_copies = placement.num_replicas
        self._accelerator = accelerator
        self._wrapped = accelerator.prepare_model(model)
        if isinstance(self._wrapped, DistributedDataParallel) and reduce_dtype in COMPRESS_HOOKS:
            self._wrapped.register_comm_hook(None, COMPRESS_HOOKS[reduce_dtype])

    def backward(self, inputs: Sequence[Tensor], microbatch_size: int, scale: float) -> Tensor:
        """Add to the gradients, microbatch after microbatch."""
        total = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
        for microbatch, is_last in microbatches(inputs, microbatch_size):
            # The gradients are reduced once, with the last microbatch.
            with nullcontext() if is_last else self._accelerator.no_sync(self._wrapped):
                scaled = scale * self._wrapped(*microbatch).sum()
                # What is reduced is the mean over processes.
                (self.num_copies * scaled).backward()
            total += scaled.detach()
        return total

    def log_prob(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the log-probabilities ``[N]``."""
        return self.model(*inputs)

    def in_step(self, batches: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield all; processes need not have equally many."""
        return ((batch, True) for batch in batches)

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the main process's."""
        return to_host(tensors) if self._accelerator.is_main_process else {}

    def whole_model(self) -> nn.Module | None:
        """Return the main process's."""
        return self.model if self._accelerator.is_main_process else None


def microbatches(inputs: Sequence[Tensor], size: int) -> Iterator[tuple[list[Tensor], bool]]:
    """Cut inputs ``[N, ...]`` into parts of ``size`` examples; yield with each whether it is the last."""
    starts = range(0, len(inputs[0]), size)
    for start in starts:
        yield [value[start : start + size] for value in inputs], start == starts[-1]


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to host memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
