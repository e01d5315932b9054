"""A training that diverges, and the place in the model where numbers ceased to be finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import Tensor, nn

from glow.parallel.layout import Layout, microbatches
from glow.parallel.tensors import local


class TrainingDiverged(ValueError):
    """Loss or gradient is not finite any more."""


def describe_divergence(layout: Layout, inputs: list[Tensor], microbatch_size: int, last_good: Path | None) -> str:
    """Say where numbers ceased to be finite, and what to do (a collective)."""
    parts = [part for part, _ in microbatches(inputs, microbatch_size)]
    place = first_nonfinite_module(layout, parts) or last_nonfinite_gradient(layout.model) or "another process"
    return (
        f"first seen in {place}; nothing was updated. Last good checkpoint: {last_good or 'none yet'}. "
        "A lower optimizer.lr, a longer optimizer.warmup_steps or optimizer.max_grad_norm may help"
    )


@torch.no_grad()
def first_nonfinite_module(layout: Layout, inputs: Iterable[list[Tensor]]) -> str | None:
    """Run the model once more (a collective).

    Returns:
        The first innermost module whose inputs are finite and whose outputs are not; None if there is none.
    """
    found: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[object, ...], output: object) -> None:
            outputs = output if isinstance(output, tuple | list) else (output,)
            if _are_finite(args) and not _are_finite(outputs):
                found.append(name)

        return hook

    handles = [module.register_forward_hook(watch(name)) for name, module in layout.model.named_modules() if name]
    try:
        for microbatch, _ in layout.in_step(inputs):
            layout.log_prob(microbatch)
    finally:
        for handle in handles:
            handle.remove()
    return found[0] if found else None


def _are_finite(values: Iterable[object]) -> bool:
    return all(value.isfinite().all() for value in values if isinstance(value, Tensor))


def last_nonfinite_gradient(model: nn.Module) -> str | None:
    """Return the deepest parameter with a non-finite gradient, from where those before it got theirs; None without."""
    names = [name for name, p in model.named_parameters() if p.grad is not None and not local(p.grad).isfinite().all()]
    return names[-1] if names else None
