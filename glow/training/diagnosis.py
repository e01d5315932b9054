"""Where in a model numbers ceased to be finite."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from glow.parallel.layout import Layout
from glow.parallel.tensors import local


@torch.no_grad()
def first_nonfinite_module(layout: Layout, inputs: Iterable[list[Tensor]]) -> str | None:
    """Run the model once more (a collective) and return the name of the first innermost module that makes of finite
    tensors others.
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
    """Return the name of the deepest parameter with a non-finite gradient: those before it caught it from there."""
    names = [name for name, p in model.named_parameters() if p.grad is not None and not local(p.grad).isfinite().all()]
    return names[-1] if names else None
