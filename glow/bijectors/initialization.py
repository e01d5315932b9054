"""The data-dependent initialisation of ActNorms, from one batch or from its microbatches."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import torch
from torch import Tensor, nn

from glow.bijectors.actnorm import ActNorm

State = TypeVar("State")


@torch.no_grad()
def initialize_actnorms(model: nn.Module, *inputs: Tensor | None) -> None:
    """Set every ActNorm of a model from data: call ``model(*inputs)`` once.

    Each ActNorm is set when the data reaches it. This is a collective: N processes set what one process would set from
    all their batches. A channel of constant input keeps scale 1, with a warning.
    """

    def set_from(actnorm: ActNorm, name: str, x: Tensor) -> None:
        actnorm.initialize(lambda: [x], name)
        actnorm.await_data(None)

    with _awaiting(model, set_from):
        model(*inputs)


@torch.no_grad()
def initialize_part(module: nn.Module, run: Callable[[State], State], states: list[State], name: str) -> None:
    """Set every ActNorm of a part of a model from microbatches, and advance each of them by ``run``.

    This sets what ``initialize_actnorms`` sets, up to rounding, in the memory of one microbatch and the states. It is a
    collective of the same kind, so that other processes may call that.

    Args:
        module: Has the ActNorms.
        run: Maps the state of a microbatch through the module. It is called several times for each ActNorm.
        states: The microbatches; replaced by what ``run`` makes of them.
        name: Name of the module, for warnings.
    """

    def interrupt(actnorm: ActNorm, label: str, x: Tensor) -> None:
        raise _Reached(actnorm, label, x)

    def input_of(state: State) -> _Reached | None:
        try:
            run(state)
        except _Reached as reached:
            return reached.with_traceback(None)  # its frames hold tensors
        return None

    def inputs() -> Iterator[Tensor]:
        for state in states:
            reached = input_of(state)
            assert reached is not None
            yield reached.x

    with _awaiting(module, interrupt, name):
        while (reached := input_of(states[0])) is not None:
            actnorm, label = reached.actnorm, reached.label
            del reached
            actnorm.initialize(inputs, label)
            actnorm.await_data(_pass)
        for index, state in enumerate(states):
            states[index] = run(state)


class _Reached(Exception):
    """The input of the first ActNorm that is not set."""

    def __init__(self, actnorm: ActNorm, label: str, x: Tensor) -> None:
        super().__init__(label)
        self.actnorm, self.label, self.x = actnorm, label, x


@contextmanager
def _awaiting(
    module: nn.Module, receive: Callable[[ActNorm, str, Tensor], None], name: str | None = None
) -> Iterator[None]:
    """Let ``receive`` see the input of each ActNorm of a module, with the name of the ActNorm."""
    actnorms = {label: child for label, child in module.named_modules(prefix=name or "") if isinstance(child, ActNorm)}
    for label, actnorm in actnorms.items():
        actnorm.await_data(partial(receive, actnorm, label))
    try:
        yield
    finally:
        for actnorm in actnorms.values():
            actnorm.await_data(None)


def _pass(_: Tensor) -> None:
    """Let data through an ActNorm that is set, on the path of those that are not."""
