"""A layout of a model over processes: what training asks of it, and the plain one, a whole copy in each process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from typing import Protocol, TypeVar

import torch
from accelerate import Accelerator
from torch import Tensor, nn
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
from torch.nn.parallel import DistributedDataParallel

from glow.bijectors.batchnorm import BatchNorm
from glow.parallel.placement import Placement

Item = TypeVar("Item")

COMPRESS_HOOKS = {"float16": default_hooks.fp16_compress_hook, "bfloat16": default_hooks.bf16_compress_hook}


class Layout(Protocol):
    """A model laid over processes. All processes call the collectives, in the same order.

    Attributes:
        model: The part of the model that this process holds. Its ``state_dict`` has the parameter names of the whole
            model, without those that other processes hold.
        placement: Place of this process.
        num_copies: Number of processes that hold the same gradient, or the same shard of it, after ``backward``.
    """

    placement: Placement
    num_copies: int

    @property
    def model(self) -> nn.Module:
        """Part of the model."""

    def backward(self, inputs: Sequence[Tensor], microbatch_size: int, scale: float) -> Tensor:
        """Add the gradient of ``scale`` times the log-probability of the global batch to the gradients (a collective).

        Args:
            inputs: Arguments of the model's forward: this process's part of the global batch, on its device.
            microbatch_size: Examples held in memory at once.
            scale: Factor of the summed log-probability.

        Returns:
            This process's part of the scaled sum, a float64 scalar on the device.
        """

    def log_prob(self, inputs: Sequence[Tensor]) -> Tensor | None:
        """Return the log-probabilities ``[N]`` (a collective); None on a process that does not know them."""

    def in_step(self, batches: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield each batch with True; then the last one again with False, while other processes still have batches.

        Only layouts in which all processes take part in every batch repeat it (a collective then).
        """

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return whole tensors, by name, in host memory of the main process; nothing on others (a collective)."""

    def whole_model(self) -> nn.Module | None:
        """Return the whole model with its current weights on the main process; None on others (a collective)."""


class Whole:
    """Every process holds the whole model and gets the same gradients; a subclass implements ``backward``."""

    def __init__(self, model: nn.Module, placement: Placement, accelerator: Accelerator) -> None:
        self.model = model
        self.placement = placement
        self.num_copies = placement.num_replicas
        self._accelerator = accelerator

    def log_prob(self, inputs: Sequence[Tensor]) -> Tensor:
        """Return the log-probabilities ``[N]``."""
        return self.model(*inputs)

    def in_step(self, batches: Iterable[Item]) -> Iterator[tuple[Item, bool]]:
        """Yield all batches; processes may have different numbers of them."""
        return ((batch, True) for batch in batches)

    def gather(self, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return the tensors of the main process."""
        return to_host(tensors) if self._accelerator.is_main_process else {}

    def whole_model(self) -> nn.Module | None:
        """Return the model of the main process."""
        return self.model if self._accelerator.is_main_process else None


class Replicated(Whole):
    """The whole model in every process, by DistributedDataParallel or alone."""

    def __init__(
        self, model: nn.Module, placement: Placement, accelerator: Accelerator, reduce_dtype: str = "float32"
    ) -> None:
        super().__init__(model, placement, accelerator)
        self._wrapped = accelerator.prepare_model(model)
        if isinstance(self._wrapped, DistributedDataParallel):
            # All other buffers are constant: there is no need to send them in every pass.
            self._wrapped.broadcast_buffers = any(isinstance(module, BatchNorm) for module in model.modules())
            if reduce_dtype in COMPRESS_HOOKS:
                self._wrapped.register_comm_hook(None, COMPRESS_HOOKS[reduce_dtype])

    def backward(self, inputs: Sequence[Tensor], microbatch_size: int, scale: float) -> Tensor:
        """Add to the gradients, one microbatch at a time."""
        total = torch.zeros((), dtype=torch.float64, device=inputs[0].device)
        for microbatch, is_last in microbatches(inputs, microbatch_size):
            # The gradients are reduced once, with the last microbatch.
            with nullcontext() if is_last else self._accelerator.no_sync(self._wrapped):
                scaled = scale * self._wrapped(*microbatch).sum()
                # The reduction takes the mean over processes.
                (self.num_copies * scaled).backward()
            total += scaled.detach()
        return total


def microbatches(inputs: Sequence[Tensor], size: int) -> Iterator[tuple[list[Tensor], bool]]:
    """Cut inputs ``[N, ...]`` into parts of ``size`` examples; yield each part, and whether it is the last."""
    starts = range(0, len(inputs[0]), size)
    for start in starts:
        yield [value[start : start + size] for value in inputs], start == starts[-1]


def to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copy tensors to host memory."""
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in tensors.items()}
